"""A device or decoders that are lost: nobody is left waiting, and the kubelet sees an end."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
from pathlib import Path

import grpc
import httpx
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.processes import alive, descendants
from tests.server.conftest import StartServer
from tests.server.process import ROOT, ServerProcess, eventually
from tests.server.stub import BREAKS, DIES, HANGS

INFER = "/v2/models/realfake/infer"
DEVICE_LOST = 4


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


async def post(client: httpx.AsyncClient, red: int) -> httpx.Response:
    return await client.post(INFER, content=picture(red), headers={"Content-Type": "image/png"})


async def call(server: ServerProcess, red: int) -> str:
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        picture(red)
    )
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ModelInfer(request, metadata=[("x-api-key", server.api_key)], timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.parametrize("fault", [BREAKS, HANGS, DIES], ids=["breaks", "hangs", "dies"])
async def test_a_lost_device_fails_everybody_at_once_and_ends_the_process(
    fault: int, start_server: StartServer
) -> None:
    server = start_server(
        {
            "REALFAKE_BATCHING__FORWARD_TIMEOUT_S": "1",
            # Neither may hold up the end of a process that cannot serve.
            "REALFAKE_SERVER__DRAIN_DELAY_S": "300",
            "REALFAKE_SERVER__DRAIN_TIMEOUT_S": "300",
        },
        stub={"STUB_FORWARD_S": "0.3"},
    ).wait_ready()
    async with server.async_client() as client:
        assert (await post(client, 10)).status_code == 200
        culprit = asyncio.create_task(post(client, fault))
        over_rest = [asyncio.create_task(post(client, red)) for red in range(20, 24)]
        over_grpc = [asyncio.create_task(call(server, red)) for red in range(30, 34)]
        refused = await culprit
        assert (refused.status_code, refused.json()["code"]) == (503, "NOT_READY")
        assert "retry-after" in refused.headers
        # In front of the fault a neighbour is served, behind it is told to go elsewhere.
        for response in await asyncio.gather(*over_rest):
            assert response.status_code in (200, 503)
        assert set(await asyncio.gather(*over_grpc)) <= {"OK", "UNAVAILABLE"}
    assert await asyncio.to_thread(server.wait, 10) == DEVICE_LOST
    failures = [line for line in server.log_lines() if line["message"].startswith("failed: ")]
    assert [line["level"] for line in failures] == ["CRITICAL"]
    assert failures[0]["exit_code"] == DEVICE_LOST


async def test_a_lost_device_is_not_ready_from_its_first_failure(start_server: StartServer) -> None:
    """In the moment before the process ends, nothing may say that all is well."""
    server = start_server(stub={}).wait_ready()
    async with server.async_client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
        assert (await post(client, BREAKS)).status_code == 503
        for path in ("/v2/health/ready", "/v1/models/realfake", "/v2/models/realfake/ready"):
            try:
                assert (await client.get(path)).status_code == 503
            except httpx.TransportError:
                break
    assert await asyncio.to_thread(server.wait, 10) == DEVICE_LOST


async def test_a_forward_that_hangs_does_not_hold_up_a_stop(start_server: StartServer) -> None:
    server = start_server(
        {
            "REALFAKE_BATCHING__FORWARD_TIMEOUT_S": "2",
            "REALFAKE_SERVER__DRAIN_DELAY_S": "0",
            "REALFAKE_SERVER__DRAIN_TIMEOUT_S": "0.1",
        },
        stub={},
    ).wait_ready()
    async with server.async_client() as client:
        hanging = asyncio.create_task(post(client, HANGS))
        log = server.directory / "batches.jsonl"
        await asyncio.to_thread(eventually, log.exists, 30, "the forward to begin")
        server.process.terminate()
        assert await asyncio.to_thread(server.wait, 20) == DEVICE_LOST
        await asyncio.gather(hanging, return_exceptions=True)
    (failure,) = [line for line in server.log_lines() if line["message"].startswith("failed: ")]
    assert failure["exit_code"] == DEVICE_LOST


def kill_nursery(server: ServerProcess) -> None:
    """The process that has the decoders for children, and see them follow it."""
    family = descendants(server.process.pid)
    [nursery] = {pid for pid in family if descendants(pid)}
    os.kill(nursery, signal.SIGKILL)
    eventually(lambda: not alive(family) or None, 10, "decoders to follow their nursery")


@pytest.mark.slow
def test_decoders_that_cannot_be_started_any_more_end_the_process(
    start_server: StartServer, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "predictor", tmp_path / "predictor")
    program = tmp_path / "predictor" / "inference" / "decode_worker.py"
    away = tmp_path / "away.py"
    # The copy, and not what lies in the working directory.
    server = start_server({"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}).wait_ready()

    with server.client() as client:

        def ask() -> int:
            """The status code; 0 when there is nobody to ask any more."""
            headers = {"Content-Type": "image/png"}
            try:
                return client.post(INFER, content=picture(10), headers=headers).status_code
            except httpx.TransportError:
                return 0

        assert ask() == 200
        program.rename(away)
        kill_nursery(server)
        assert ask() == 503
        away.rename(program)
        eventually(lambda: ask() == 200 or None, 30, "a decoder, after a moment without")
        program.rename(away)
        kill_nursery(server)
        eventually(lambda: ask() == 0 or None, 60, "the process to end")
    assert server.wait(10) == DEVICE_LOST
    [failure] = [line for line in server.log_lines() if line["message"].startswith("failed: ")]
    assert "no decoder" in failure["message"]
    assert (failure["level"], failure["exit_code"]) == ("CRITICAL", DEVICE_LOST)
