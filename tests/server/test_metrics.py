"""What an operator sees on the metrics port, of a real server in good times and bad."""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import socket
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from predictor.telemetry.metrics import ALL
from tests.certificates import Authority
from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import INFER, PATIENCE_S, connect, head, until_closed
from tests.server.scrape import scrape, url

PNG = {"Content-Type": "image/png"}
REQUESTS = "inference_requests_total"
DURATIONS = "inference_duration_seconds_count"
ARCHITECTURE = (
    "inference_requests_total inference_duration_seconds inference_stage_duration_seconds "
    "inference_batch_size inference_queue_depth inference_queue_wait_seconds inference_in_flight "
    "inference_rejections_total inference_images_total inference_verdicts_total "
    "inference_fake_probability inference_event_loop_lag_seconds inference_model_info "
    "api_key_requests_total"
)
"""What dashboards and alerts elsewhere are written for: not to be renamed."""


def picture(red: int = 60) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def reached(server: ServerProcess, red: int) -> None:
    """Wait until the network has seen a picture."""
    log = server.directory / "batches.jsonl"
    eventually(
        lambda: (log.exists() and str(red) in log.read_text()) or None, PATIENCE_S, f"{red} seen"
    )


async def infer(
    server: ServerProcess, data: bytes, model: str = "realfake", timeout_ms: int = 30_000
) -> grpc.StatusCode:
    """Ask, with a deadline that the server keeps: of two clocks, either may be first."""
    request = pb.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(data)
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            request,
            metadata=[
                ("x-api-key", server.api_key),
                ("x-request-timeout-ms", str(timeout_ms)),
            ],
            timeout=30,
        )
        code: grpc.StatusCode = await call.code()
        return code


def test_every_metric_has_a_series(start_server: StartServer, tmp_path: Path) -> None:
    """Also those of parts that are switched off by default; a GPU is not to be had here."""
    authority = Authority()
    issued = authority.issue()
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    chain.write_bytes(issued.chain)
    key.write_bytes(issued.key)
    server = start_server(
        {
            "REALFAKE_TLS__CERT_FILE": str(chain),
            "REALFAKE_TLS__KEY_FILE": str(key),
            "REALFAKE_RATE_LIMIT__RATE": "1/day",
            "REALFAKE_AUDIT__DESTINATION": "file",
            "REALFAKE_AUDIT__FILE": str(tmp_path / "audit"),
        },
        stub={},
    )
    server.wait_for_log("ready")
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    with httpx.Client(verify=trust, headers=PNG | server.headers, timeout=30) as client:
        codes = [
            client.post(f"https://{server.http_address}{INFER}", content=picture()).status_code
            for _ in range(2)
        ]
    assert codes == [200, 429]
    found = scrape(server)
    series = {metric.name + ("_count" if metric.kind == "histogram" else "") for metric in ALL}
    missing = series - found.families
    assert all(name.startswith("inference_gpu_") for name in missing), missing
    assert set(ARCHITECTURE.split()) <= {metric.name for metric in ALL}
    assert {"process_resident_memory_bytes", "python_gc_collections_total"} <= found.families
    assert found.by("reason", "inference_rejections_total") == {"rate_limited": 1}
    assert found.value("inference_audit_failing") == 0


async def test_what_is_answered_is_counted_by_every_protocol(start_server: StartServer) -> None:
    server = start_server(stub={}).wait_ready()
    encoded = base64.b64encode(picture()).decode()
    async with server.async_client() as client:
        answers = [
            await client.post(INFER, content=picture(), headers=PNG),
            await client.post(
                "/v1/models/realfake:predict",
                json={"instances": [{"image": {"b64": encoded}}] * 2},
            ),
            await client.post("/infer", files={"file": ("a.png", picture(), "image/png")}),
        ]
        await client.get("/v2/models/realfake")
    assert [answer.status_code for answer in answers] == [200] * 3, [a.text for a in answers]
    assert await infer(server, picture()) is grpc.StatusCode.OK
    found = scrape(server)
    once = {"v2": 1, "v1": 1, "legacy": 1, "grpc": 1}
    assert found.by("protocol", REQUESTS) == once
    assert found.by("code", REQUESTS) == {"OK": 4}
    assert found.by("protocol", DURATIONS) == once
    assert found.by("outcome", "inference_images_total") == {"classified": 5}
    assert found.value("inference_verdicts_total", model_version="debug-1") == 5
    assert found.value("inference_fake_probability_count") == 5
    assert found.value("inference_batch_size_sum") == 5
    assert found.value("inference_queue_wait_seconds_count") == 5
    stages = found.by("stage", "inference_stage_duration_seconds_count")
    assert (stages["decode"], stages["queue"], stages["encode"]) == (5, 5, 4)
    assert stages["forward"] == found.value("inference_batch_size_count")
    assert found.value("inference_model_info", version="debug-1", engine="stub") == 1
    # Metadata wants a key as well.
    assert found.value("api_key_requests_total", key_id="tests", outcome="ok") == 5
    assert found.value("inference_in_flight") == 0


async def test_nothing_a_client_sends_becomes_a_label(start_server: StartServer) -> None:
    """A label for each thing a stranger makes up would fill Prometheus' memory."""
    server = start_server(stub={}).wait_ready()
    evil = "evil-0123"
    hostile = PNG | {"X-Request-Id": evil, "X-Request-Timeout-Ms": evil, "User-Agent": evil}
    async with server.async_client() as client:
        await client.post(f"/v2/models/{evil}/infer", content=picture(), headers=PNG)
        await client.post(f"/v2/models/realfake/versions/{evil}/infer", content=b"", headers=PNG)
        await client.post(INFER, content=evil.encode(), headers=PNG)
        await client.post(INFER, content=picture(), headers=hostile)
        await client.post(INFER, content=picture(), headers=PNG | {"X-API-Key": evil})
        await client.get(f"/{evil}")
        await client.delete(INFER)
    assert await infer(server, picture(), evil) is grpc.StatusCode.NOT_FOUND
    found = scrape(server)
    values = {value for _, labels, _ in found.samples for value in labels.values()}
    assert not [value for value in values if "evil" in value.lower()]
    assert found.by("code", REQUESTS) == {
        "NOT_FOUND": 3,
        "UNSUPPORTED_MEDIA": 1,
        "INVALID_REQUEST": 1,
        "UNAUTHENTICATED": 1,
    }
    assert found.by("outcome", "inference_images_total") == {"unsupported_media": 1}
    assert found.value(DURATIONS) == 0, "a refusal says nothing about latency"
    assert found.by("key_id", "api_key_requests_total") == {"": 1, "tests": 7}
    outcomes = found.by("outcome", "api_key_requests_total")
    assert outcomes == {"refused": 7, "unauthenticated": 1}


async def test_overload_deadlines_and_hang_ups_are_told_apart(start_server: StartServer) -> None:
    server = start_server(
        {"REALFAKE_LIMITS__MAX_IN_FLIGHT": "1"}, stub={"STUB_FORWARD_S": "1"}
    ).wait_ready()
    body = picture(11)
    async with server.async_client() as client:
        with connect(server) as gone:
            gone.sendall(head(server, "Content-Type: image/png", f"Content-Length: {len(body)}"))
            gone.sendall(body)
            await asyncio.to_thread(reached, server, 11)
            assert scrape(server).value("inference_in_flight") == 1
            refused = await client.post(INFER, content=picture(), headers=PNG)
            assert refused.json()["code"] == "OVERLOADED"
        await asyncio.to_thread(
            eventually,
            lambda: scrape(server).value(REQUESTS, code="CANCELLED") or None,
            PATIENCE_S,
            "the hang-up to be counted",
        )
        late = await client.post(
            INFER, content=picture(), headers=PNG | {"X-Request-Timeout-Ms": "100"}
        )
        assert late.json()["code"] == "DEADLINE_EXCEEDED"
    assert await infer(server, picture(), timeout_ms=100) is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(
        lambda: scrape(server).value(REQUESTS, protocol="grpc") or None, PATIENCE_S, "gRPC's count"
    )
    found = scrape(server)
    assert found.by("code", REQUESTS) == {"OVERLOADED": 1, "CANCELLED": 1, "DEADLINE_EXCEEDED": 2}
    assert found.by("reason", "inference_rejections_total") == {"in_flight": 1}
    pictures = found.by("outcome", "inference_images_total")
    assert pictures == {"cancelled": 1, "deadline_exceeded": 2}
    assert found.by("protocol", DURATIONS) == {"v2": 1, "grpc": 1}
    assert found.value("inference_in_flight") == 0


def test_a_replica_is_scraped_while_it_loads(start_server: StartServer) -> None:
    server = start_server(stub={"STUB_LOAD_S": "3600"})
    with server.client() as client:
        assert client.post(INFER, content=picture(), headers=PNG).status_code == 503
    found = scrape(server)
    assert found.value(REQUESTS, model_version="none", code="NOT_READY") == 1
    assert found.by("reason", "inference_rejections_total") == {"not_ready": 1}
    assert "inference_model_info" not in found.families
    assert {"inference_in_flight", "inference_queue_depth"} <= found.families
    assert server.stop() == 0


async def test_a_replica_is_scraped_until_its_last_answer(start_server: StartServer) -> None:
    server = start_server(stub={"STUB_FORWARD_S": "2"}).wait_ready()
    async with server.async_client() as client:
        last = asyncio.create_task(client.post(INFER, content=picture(12), headers=PNG))
        await asyncio.to_thread(reached, server, 12)
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait_for_log, "draining")
        found = await asyncio.to_thread(scrape, server)
        assert not last.done()
        assert found.value("inference_in_flight") == 1
        assert (await last).status_code == 200
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_busy_event_loop_is_seen_and_not_waited_for(
    start_server: StartServer, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    server = start_server(stub={"STUB_BLOCKED": str(blocked)}).wait_ready()
    server.signal(signal.SIGUSR1)
    await asyncio.to_thread(eventually, lambda: blocked.exists() or None, PATIENCE_S, "the block")
    async with server.async_client() as client:
        probe = asyncio.create_task(client.get("/v2/health/live"))
        for _ in range(3):
            await asyncio.to_thread(scrape, server)
        assert not probe.done(), "the loop was not blocked: this test shows nothing"
        await asyncio.sleep(0.5)  # what the lag is then at least
        blocked.unlink()
        assert (await probe).status_code == 200
    late = "inference_event_loop_lag_seconds_bucket"

    def seen() -> bool | None:
        found = scrape(server)
        return found.value(late, le="+Inf") > found.value(late, le="0.1") or None

    await asyncio.to_thread(eventually, seen, PATIENCE_S, "the lag in the histogram")


def test_keys_that_cannot_be_read_are_counted(start_server: StartServer) -> None:
    server = start_server(stub={"STUB_POLL_S": "0.05"}).wait_ready()
    assert scrape(server).value("inference_reload_failures_total", files="keys") == 0
    before = scrape(server).value("inference_reload_last_success_timestamp_seconds", files="keys")
    assert before > 0
    (server.directory / "keys" / "tests").write_text("")
    eventually(
        lambda: scrape(server).value("inference_reload_failures_total", files="keys") or None,
        PATIENCE_S,
        "the failure to be counted",
    )
    after = scrape(server).value("inference_reload_last_success_timestamp_seconds", files="keys")
    assert after == before


def test_the_ports_do_not_answer_for_each_other(server: ServerProcess) -> None:
    with server.client() as client:
        assert client.get("/metrics").status_code == 404
    base = url(server).removesuffix("/metrics")
    for path in ("/", "/metrics/", "/v2/health/live", "/v2/models/realfake/infer"):
        answer = httpx.get(base + path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    posted = httpx.post(url(server), content=b"x")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "openmetrics"),
        ("application/openmetrics-text; version=none", "openmetrics"),
        ("*/*", "plain"),
        ("text/plain; version=1.0.0; escaping=\xff", "plain"),
    ],
)
def test_the_format_is_what_was_asked_for(server: ServerProcess, accept: str, kind: str) -> None:
    answer = httpx.get(url(server), headers=[(b"Accept", accept.encode("latin-1"))])
    assert answer.status_code == 200
    assert kind in answer.headers["content-type"]
    assert answer.text.endswith("# EOF\n") is (kind == "openmetrics")


def test_slow_strangers_do_not_keep_a_scraper_out(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "1"}, stub={}).wait_ready()
    port = server.listening["metrics_port"]
    strangers = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(40)]
    try:
        scrape(server)
        assert until_closed(strangers[0]) == b""
    finally:
        for stranger in strangers:
            stranger.close()


def test_it_can_be_switched_off(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_SERVER__METRICS_ENABLED": "false"}, stub={}).wait_ready()
    assert "metrics_port" not in server.listening
    assert server.stop() == 0


def test_a_port_that_is_taken_is_named(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = start_server({"REALFAKE_SERVER__METRICS_PORT": port}, stub={})
        assert server.wait() == 1
    assert "server.metrics_port" in server.log_text()
