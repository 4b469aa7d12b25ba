"""All that a process writes, from its start to its end, through everything that goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess
from tests.server.raw import INFER
from tests.server.stub import BREAKS, POISON
from tests.server.test_faults import DEVICE_LOST, picture

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
BUSY = {
    "REALFAKE_BATCHING__MAX_BATCH_SIZE": "1",
    "REALFAKE_BATCHING__MAX_QUEUE": "4",
    "REALFAKE_LIMITS__MAX_PICTURES": "4",
    "REALFAKE_TELEMETRY__LOG_LEVEL": "DEBUG",
}


def lines_of(written: bytes) -> list[dict[str, Any]]:
    """Every byte of what a process wrote, as its log lines."""
    assert written.endswith(b"\n"), "the last line is whole"
    lines = []
    for raw in written.decode("ascii").split("\n")[:-1]:
        line = json.loads(raw)
        assert isinstance(line, dict), raw
        assert RFC3339.fullmatch(line["timestamp"]), raw
        assert line["level"] in LEVELS, raw
        assert line["logger"], raw
        assert isinstance(line["message"], str), raw
        lines.append(line)
    return lines


async def status(client: httpx.AsyncClient, content: bytes, **headers: str) -> int:
    answer = await client.post(
        INFER, content=content, headers={"Content-Type": "image/png"} | headers
    )
    return answer.status_code


async def by_grpc(server: ServerProcess, content: bytes, key: str) -> str:
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        content
    )
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ModelInfer(request, metadata=[("x-api-key", key)], timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def live(server: ServerProcess) -> None:
    """Success, the caller's mistakes, more than can be served, and a picture that fails alone."""
    async with server.async_client() as client:
        assert await status(client, picture(10)) == 200
        assert await by_grpc(server, picture(10), server.api_key) == "OK"
        assert await status(client, b"\xff\xd8 no picture \x00\xe2\x80\xa8") == 400
        assert await status(client, picture(10), **{"X-API-Key": "rf_nobody"}) == 401
        assert await by_grpc(server, picture(10), "rf_nobody") == "UNAUTHENTICATED"
        assert (await client.get("/no/such\u2028route")).status_code == 404
        flood = await asyncio.gather(*(status(client, picture(20 + n % 200)) for n in range(40)))
        assert set(flood) == {200, 503}, flood
        assert await status(client, picture(POISON)) == 500


def test_every_byte_is_a_log_line_from_start_to_shutdown(start_server: StartServer) -> None:
    server = start_server(BUSY, stub={"STUB_FORWARD_S": "0.05"}).wait_ready()
    asyncio.run(live(server))
    assert server.stop() == 0
    lines = lines_of(server.log_path.read_bytes())
    assert "stopped" in [line["message"] for line in lines]
    access = [line for line in lines if line["message"] == "request"]
    codes = Counter(line["code"] for line in access)
    assert {"OK", "UNAUTHENTICATED", "NOT_FOUND", "OVERLOADED", "INTERNAL"} <= set(codes)
    assert all(line["request_id"] for line in access)
    # What went wrong in another thread is found by the request that it went wrong for.
    [failure] = [line for line in lines if line["message"] == "a picture could not be classified"]
    [answered] = [line for line in access if line["code"] == "INTERNAL"]
    assert failure["request_id"] == answered["request_id"]
    assert "secret-of-the-network" not in server.log_text()


def test_every_byte_is_a_log_line_until_the_device_is_lost(start_server: StartServer) -> None:
    server = start_server(BUSY, stub={}).wait_ready()

    async def break_it() -> int:
        async with server.async_client() as client:
            return await status(client, picture(BREAKS))

    assert asyncio.run(break_it()) == 503
    assert server.wait(60) == DEVICE_LOST
    lines = lines_of(server.log_path.read_bytes())
    assert DEVICE_LOST in [line.get("exit_code") for line in lines if line["level"] == "CRITICAL"]


def test_every_byte_is_a_log_line_when_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    settings = ["auth.mode=none", f"model.path={tmp_path}"]
    settings += [f"server.{name}_port=0" for name in ("http", "grpc", "metrics")]
    refused = subprocess.run(
        [sys.executable, "-m", "predictor", "serve", *(f"--{setting}" for setting in settings)],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert refused.returncode == 3
    assert refused.stderr == b""
    lines = lines_of(refused.stdout)
    assert lines[-1]["level"] == "CRITICAL"
