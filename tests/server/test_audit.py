"""Audit records of the real process: complete, true, and verified by the product's own command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from hack.load.http_caller import HttpCaller, post
from hack.load.loops import ClosedLoop
from tests.pictures import jpeg
from tests.server.conftest import StartServer
from tests.server.process import ROOT, eventually
from tests.server.scrape import scrape

INFER = "/v2/models/realfake/infer"
HEADERS = {"Content-Type": "image/jpeg"}


def audited(directory: Path, **settings: str) -> dict[str, str]:
    return {
        "REALFAKE_AUDIT__DESTINATION": "file",
        "REALFAKE_AUDIT__FILE": str(directory / "audit.jsonl"),
        **settings,
    }


def verify(*arguments: str | Path) -> str:
    """What `audit verify` prints, once it has found nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "predictor", "audit", "verify", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(path: Path, message: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    audit = [line for line in lines if line["logger"] == "realfake.audit"]
    return [line for line in audit if message in (None, line["message"])]


def request_for(*pictures: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="realfake")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(pictures)])
    tensor.contents.bytes_contents.extend(pictures)
    return request


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_every_decision_and_answer_is_recorded_on_both_protocols(
    start_server: StartServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 2)
    settings = audited(tmp_path, REALFAKE_AUDIT__HMAC_KEY_FILE=str(secret))
    server = start_server(settings, stub={}).wait_ready()
    picture, other = jpeg(), jpeg(progressive=True)
    named = {"X-Request-Id": "known-1"}
    with server.client() as client:
        client.post(INFER, content=picture, headers={**HEADERS, **named})
        client.post("/infer", files={"file": ("secret-name.jpg", other)})
        client.post(INFER, content=b"no picture", headers=HEADERS)
        client.get("/v2")
        client.get("/v2/health/ready")
        client.post(INFER, content=picture, headers={**HEADERS, "X-API-Key": "wrong" * 10})
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        key = [("x-api-key", server.api_key)]
        answer = stub.ModelInfer(request_for(picture, other), metadata=key, timeout=30)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(request_for(picture), timeout=30)
    assert server.stop() == 0
    path = tmp_path / "audit.jsonl"
    assert ", ended" in verify("--hmac-key-file", secret, path)

    decisions = [
        (line["protocol"], line["route"], line["key_id"], line["code"])
        for line in records(path, "authentication")
    ]
    infer, rpc = "/v2/models/{model}/infer", "/inference.GRPCInferenceService/ModelInfer"
    assert decisions == [
        ("http", infer, "tests", "OK"),
        ("http", "/infer", "tests", "OK"),
        ("http", infer, "tests", "OK"),
        ("http", "/v2", "tests", "OK"),
        ("http", infer, None, "UNAUTHENTICATED"),
        ("grpc", rpc, "tests", "OK"),
        ("grpc", rpc, None, "UNAUTHENTICATED"),
    ]
    answers = records(path, "inference")
    assert [(line["route"], line["code"], line["pictures"]) for line in answers] == [
        (infer, "OK", [sha256(picture)]),
        ("/infer", "OK", [sha256(other)]),
        (infer, "UNSUPPORTED_MEDIA", [sha256(b"no picture")]),
        (rpc, "OK", [sha256(picture), sha256(other)]),
    ]
    assert answers[0]["request_id"] == "known-1"
    [ready] = [line for line in server.log_lines() if line["message"] == "ready"]
    for line in answers:
        assert (line["model"], line["key_id"]) == ("realfake", "tests")
        for name in ("model_version", "model_digest"):
            assert line[name] == ready[name.replace("model_digest", "digest")]
    verdicts = next(output for output in answer.outputs if output.name == "verdict")
    sent = [value.decode() for value in verdicts.contents.bytes_contents]
    assert answers[3]["verdicts"] == sent
    text = path.read_text()
    for canary in (server.api_key, "wrong", "secret-name", "0123456789abcdef", "no picture"):
        assert canary not in text


async def test_a_stop_under_load_loses_no_record(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(audited(tmp_path), stub={"STUB_FORWARD_S": "0.02"}).wait_ready()
    answered: list[str] = []
    enough = asyncio.Event()

    def note(identity: str) -> None:
        answered.append(identity)
        if len(answered) == 200:
            enough.set()

    async def over_http(client: httpx.AsyncClient) -> None:
        while True:
            try:
                response = await client.post(INFER, content=jpeg(), headers=HEADERS)
            except httpx.TransportError:
                return  # the listener is gone
            assert response.status_code in (200, 503)
            note(response.headers["x-request-id"])

    async def over_grpc(stub: pb_grpc.GRPCInferenceServiceStub) -> None:
        metadata = [("x-api-key", server.api_key)]
        while True:
            call = stub.ModelInfer(request_for(jpeg()), metadata=metadata, timeout=30)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                trailing: Any = error.trailing_metadata() or ()
                identities = [value for name, value in trailing if name == "x-request-id"]
                if not identities:
                    return  # not from the server: it is gone
                note(identities[0])
            else:
                note(str(dict(await call.trailing_metadata())["x-request-id"]))

    async def stop() -> None:
        await enough.wait()
        server.signal(signal.SIGTERM)

    async with server.async_client() as client, grpc.aio.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        callers = [over_http(client) for _ in range(12)] + [over_grpc(stub) for _ in range(12)]
        await asyncio.gather(*callers, stop())
    assert await asyncio.to_thread(server.wait) == 0
    path = tmp_path / "audit.jsonl"
    assert ", ended" in verify(path)
    recorded = [line["request_id"] for line in records(path, "inference")]
    assert len(answered) >= 200
    assert sorted(recorded) == sorted(answered)


def test_a_second_sigterm_ends_at_once_and_keeps_what_was_recorded(
    start_server: StartServer, tmp_path: Path
) -> None:
    settings = audited(tmp_path, REALFAKE_SERVER__DRAIN_DELAY_S="300")
    server = start_server(settings, stub={}).wait_ready()
    with server.client() as client:
        for _ in range(20):
            assert client.post(INFER, content=jpeg(), headers=HEADERS).status_code == 200
    server.signal(signal.SIGTERM)
    server.wait_for_log("draining")
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    path = tmp_path / "audit.jsonl"
    assert ", ended" in verify(path)
    assert len(records(path, "inference")) == 20


def test_restarts_go_on_in_the_file_and_a_killed_one_shows(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    for end in (signal.SIGKILL, signal.SIGTERM):
        server = start_server(audited(tmp_path), stub={}).wait_ready()
        with server.client() as client:
            assert client.post(INFER, content=jpeg(), headers=HEADERS).status_code == 200
        eventually(lambda: "inference" in path.read_text().splitlines()[-1] or None, 30, "it")
        if end is signal.SIGKILL:
            rival = start_server(audited(tmp_path), stub={})
            assert rival.wait() == 2
            assert "another process writes it" in rival.log_text()
        server.signal(end)
        server.wait()
    printed = verify("--strict", path)
    assert printed.count("not ended") == 1
    started = records(path, "chain started")
    assert [line["previous"] is None for line in started] == [True, False]


def test_records_among_the_log_verify_as_they_are(start_server: StartServer) -> None:
    server = start_server({"REALFAKE_AUDIT__DESTINATION": "stdout"}, stub={}).wait_ready()
    with server.client() as client:
        for _ in range(5):
            assert client.post(INFER, content=jpeg(), headers=HEADERS).status_code == 200
    assert server.stop() == 0
    assert "ok: 12 records" in verify(server.log_path)
    assert len(records(server.log_path, "inference")) == 5


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_a_file_that_fails_later_is_seen_and_heals(
    on_failure: str, start_server: StartServer, tmp_path: Path
) -> None:
    directory = tmp_path / "volume"
    directory.mkdir()
    settings = audited(directory, REALFAKE_AUDIT__ON_FAILURE=on_failure)
    server = start_server(settings, stub={"STUB_FORWARD_S": "0.5"}).wait_ready()
    batches = server.directory / "batches.jsonl"
    answered: list[int] = []

    def infer() -> int:
        with server.client() as own:
            code = own.post(INFER, content=jpeg(), headers=HEADERS).status_code
        answered.append(code)
        return code

    with (
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        told = [next(watch).status]
        in_flight = pool.submit(infer)
        eventually(lambda: batches.exists() or None, 30, "a forward to begin")
        directory.rename(tmp_path / "away")
        assert in_flight.result() == 200  # kept, and written later
        client.get("/v2")  # a record more, should the one in flight have come before the failure
        server.wait_for_log("audit records cannot be written")
        assert scrape(server).value("inference_audit_failing") == 1
        expected = 503 if on_failure == "closed" else 200
        assert [client.get("/v2/health/ready").status_code, infer()] == [expected, expected]
        assert client.get("/v2/health/live").status_code == 200
        if on_failure == "closed":  # a client's load balancer hears of it as well
            told.append(next(watch).status)
        (tmp_path / "away").rename(directory)
        server.wait_for_log("audit records are written again")
        assert scrape(server).value("inference_audit_failing") == 0
        assert [client.get("/v2/health/ready").status_code, infer()] == [200, 200]
        if on_failure == "closed":
            told.append(next(watch).status)
            status = health_pb2.HealthCheckResponse
            assert told == [status.SERVING, status.NOT_SERVING, status.SERVING]
        watch.cancel()
    assert server.stop() == 0
    path = directory / "audit.jsonl"
    verify(path)
    assert len(records(path, "inference")) == answered.count(200)


@pytest.mark.slow
async def test_records_that_do_not_fit_are_counted_where_metrics_and_auditors_look(
    start_server: StartServer, tmp_path: Path
) -> None:
    """More wrong keys than records may wait, while the volume is away."""
    directory = tmp_path / "volume"
    directory.mkdir()
    settings = audited(directory, REALFAKE_AUDIT__ON_FAILURE="open")
    server = start_server(settings, stub={}).wait_ready()
    assert scrape(server).value("inference_audit_dropped_total") == 0
    directory.rename(tmp_path / "away")
    request = post("/v2/models/realfake/infer", b"", {"X-API-Key": "wrong" * 10})
    caller = HttpCaller(server.url, request)
    dropped = 0.0
    while not dropped:
        loop = ClosedLoop(caller, 16)
        loop.start()
        assert (await loop.window(1.0)).seconds("401")
        await loop.stop()
        dropped = await asyncio.to_thread(
            lambda: scrape(server).value("inference_audit_dropped_total")
        )
    await caller.close()
    (tmp_path / "away").rename(directory)
    await asyncio.to_thread(server.wait_for_log, "audit records are written again")
    assert await asyncio.to_thread(server.stop) == 0
    path = directory / "audit.jsonl"
    verify(path)
    gaps = [line["count"] for line in records(path, "records dropped")]
    assert sum(gaps) == dropped


def test_a_process_that_cannot_audit_does_not_start(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(audited(tmp_path / "none"), stub={})
    assert server.wait() == 2
    [line] = server.log_lines()
    assert "audit.file" in line["message"]
