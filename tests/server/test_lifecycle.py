"""Start, drain and end, as Kubernetes sees them."""

from __future__ import annotations

import asyncio
import io
import signal
import threading
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually

INFER = "/v2/models/realfake/infer"
JPEG = {"Content-Type": "image/jpeg"}


def picture(red: int = 60) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def grpc_infer(server: ServerProcess, data: bytes, client_timeout: float | None = 30) -> float:
    tensor = triton_grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(
            "realfake",
            [tensor],
            headers={"x-api-key": server.api_key},
            client_timeout=client_timeout,
        )
    return float(result.as_numpy("fake_prob")[0])


def test_ports_answer_not_ready_while_the_bundle_loads(start_server: StartServer) -> None:
    server = start_server(stub={"STUB_LOAD_S": "3600"})
    with server.client() as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        ready = client.get("/v2/health/ready")
        model = client.get("/v2/models/realfake/ready")
        v1 = client.get("/v1/models/realfake")
        infer = client.post(INFER, content=picture(), headers=JPEG)
    for response in (ready, model, v1, infer):
        assert response.status_code == 503
        assert response.json()["code"] == "NOT_READY"
        assert int(response.headers["retry-after"]) >= 1
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("realfake")
    with pytest.raises(triton_grpc.InferenceServerException) as refused:
        grpc_infer(server, picture())
    assert "UNAVAILABLE" in str(refused.value.status())
    assert server.stop() == 0, "a stop during the load must not wait for it"


def test_health_service_follows_the_lifecycle(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_SERVER__DRAIN_DELAY_S": "1"}, stub={"STUB_LOAD_S": "1"})
    with grpc.insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="realfake"), timeout=60)
        seen = []
        for update in watch:
            seen.append(health_pb2.HealthCheckResponse.ServingStatus.Name(update.status))
            if seen[-1] == "SERVING":
                server.signal(signal.SIGTERM)
    assert seen == ["NOT_SERVING", "SERVING", "NOT_SERVING"]
    assert server.wait() == 0


def test_drain_loses_no_request_on_either_protocol(start_server: StartServer) -> None:
    server = start_server(
        {"REALFAKE_SERVER__DRAIN_DELAY_S": "1.5"}, stub={"STUB_FORWARD_S": "0.05"}
    ).wait_ready()
    terminated = threading.Event()
    not_ready = threading.Event()
    outcomes: list[str] = []
    lock = threading.Lock()

    def load(protocol: str) -> None:
        tensor = triton_grpc.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([picture()], dtype=np.object_))
        with (
            server.client() as http,
            triton_grpc.InferenceServerClient(server.grpc) as client,
        ):
            while not not_ready.is_set():
                try:
                    if protocol == "http":
                        answer = http.post(INFER, content=picture(), headers=JPEG)
                        outcome = str(answer.status_code)
                    else:
                        client.infer("realfake", [tensor], headers={"x-api-key": server.api_key})
                        outcome = "200"
                except Exception as error:
                    outcome = repr(error)
                with lock:
                    outcomes.append(f"{protocol} {outcome}")

    threads = [threading.Thread(target=load, args=(protocol,)) for protocol in ("http", "grpc") * 4]
    for thread in threads:
        thread.start()
    eventually(lambda: len(outcomes) > 40 or None, 30, "load")
    before = len(outcomes)
    server.signal(signal.SIGTERM)
    terminated.set()
    with httpx.Client(base_url=server.url) as probe:
        eventually(
            lambda: probe.get("/v2/health/ready").status_code == 503 or None, 1.5, "not ready"
        )
        assert probe.get("/v2/health/live").status_code == 200
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert not client.is_server_ready()
    eventually(lambda: len(outcomes) > before + 40 or None, 30, "service while draining")
    not_ready.set()  # the load balancer has noticed
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"http 200", "grpc 200"}
    assert server.wait() == 0


def test_requests_in_flight_are_answered_before_the_end(start_server: StartServer) -> None:
    """Both listeners are closed already; what was accepted still gets its answer."""
    server = start_server(stub={"STUB_FORWARD_S": "2"}).wait_ready()
    answers: list[object] = []

    def over_http() -> None:
        with server.client() as client:
            answers.append(client.post(INFER, content=picture(), headers=JPEG).status_code)

    threads = [
        threading.Thread(target=over_http),
        threading.Thread(target=lambda: answers.append(grpc_infer(server, picture()) > 0)),
    ]
    for thread in threads:
        thread.start()
    batches = server.directory / "batches.jsonl"
    eventually(lambda: batches.exists() or None, 30, "the first batch")
    server.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert sorted(map(str, answers)) == ["200", "True"]
    assert server.wait() == 0


def test_an_idle_watch_does_not_hold_up_the_end(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_SERVER__DRAIN_TIMEOUT_S": "3000"}, stub={}).wait_ready()
    with grpc.insecure_channel(server.grpc) as channel, server.client() as client:
        client.get("/v2/health/live")  # an idle keep-alive connection
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_a_second_signal_ends_it(
    signals: tuple[signal.Signals, signal.Signals], start_server: StartServer
) -> None:
    server = start_server({"REALFAKE_SERVER__DRAIN_DELAY_S": "300"}, stub={}).wait_ready()
    server.signal(signals[0])
    server.wait_for_log("draining")
    server.signal(signals[1])
    assert server.wait(10) == 128 + signals[1]


def test_sigquit_ends_it_at_once(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_SERVER__DRAIN_DELAY_S": "300"}, stub={}).wait_ready()
    server.signal(signal.SIGQUIT)
    assert server.wait(10) == 128 + signal.SIGQUIT


def test_sigterm_ends_it_while_it_still_imports(start_server: StartServer) -> None:
    """As process 1 of a container it would not be killed: the kernel drops what nobody handles."""
    server = start_server()
    status = Path(f"/proc/{server.process.pid}/status")

    def handles() -> bool | None:
        mask = status.read_text().split("SigCgt:")[1].split()[0]
        return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1) or None

    eventually(handles, 30, "a handler for SIGTERM")
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 128 + signal.SIGTERM
    assert "listening" not in server.log_text()


def test_a_bundle_that_cannot_be_loaded_ends_the_process(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server({"REALFAKE_MODEL__PATH": str(tmp_path / "nothing")})
    assert server.wait() == 3
    failures = [line for line in server.log_lines() if line["level"] in ("ERROR", "CRITICAL")]
    assert len(failures) == 1
    assert "model.path" in failures[0]["message"] or "nothing" in failures[0]["message"]
    assert "Traceback" not in server.log_text()


def test_a_taken_port_ends_the_process(start_server: StartServer) -> None:
    first = start_server(stub={})
    port = first.listening["http_port"]
    second = start_server({"REALFAKE_SERVER__HTTP_PORT": str(port)}, stub={})
    assert second.wait() == 1
    assert "server.http_port" in second.log_text()


async def test_the_event_loop_is_free_while_the_network_computes(
    start_server: StartServer,
) -> None:
    """Health answers overtake a forward that takes four seconds."""
    server = start_server(stub={"STUB_FORWARD_S": "4"}).wait_ready()
    async with server.async_client() as client:
        slow = asyncio.create_task(client.post(INFER, content=picture(), headers=JPEG))
        batches = server.directory / "batches.jsonl"
        await asyncio.to_thread(
            eventually, lambda: batches.exists() or None, 30, "the forward to begin"
        )
        started = time.monotonic()
        for _ in range(20):
            assert (await client.get("/v2/health/live")).status_code == 200
        assert not slow.done(), f"20 health answers took {time.monotonic() - started:.1f} s"
        assert (await slow).status_code == 200
