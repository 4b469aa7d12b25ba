"""Pictures that break their decoder, against the real process: only their own request pays."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from functools import partial

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests import faults
from tests.processes import alive, descendants
from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually

INFER = "/v2/models/realfake/infer"
JPEG = {"Content-Type": "image/jpeg"}


def good() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def stub(start_server: StartServer) -> ServerProcess:
    settings = {"REALFAKE_DECODING__WORKERS": "2", "REALFAKE_DECODING__MAX_CPU_S": "0.5"}
    return start_server(settings, stub={}).wait_ready()


async def test_a_crash_an_overrun_and_a_glutton_cost_their_own_request(
    stub: ServerProcess,
) -> None:
    ready: list[int] = []

    async def watch(client: httpx.AsyncClient) -> None:
        while True:
            ready.append((await client.get("/v2/health/ready")).status_code)
            await asyncio.sleep(0.01)

    async with stub.async_client() as client, grpc.aio.insecure_channel(stub.grpc) as channel:
        watching = asyncio.create_task(watch(client))
        bad = [faults.CRASH, faults.SPIN, faults.GREEDY, faults.CRASH]
        requests = [client.post(INFER, content=body, headers=JPEG) for body in bad]
        requests += [client.post(INFER, content=good(), headers=JPEG) for _ in range(30)]
        answers = await asyncio.gather(*requests)
        message = pb.ModelInferRequest(model_name="realfake")
        message.inputs.add(
            name="image", datatype="BYTES", shape=[1]
        ).contents.bytes_contents.append(faults.CRASH)
        inference = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await inference.ModelInfer(message, metadata=[("x-api-key", stub.api_key)], timeout=30)
        watching.cancel()
    for answer in answers[: len(bad)]:
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_IMAGE"), answer.text
    assert {answer.status_code for answer in answers[len(bad) :]} == {200}
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(ready) == {200}
    ends = [line for line in stub.log_lines() if line["message"].startswith("a decoder end")]
    assert sorted(line["exit"] for line in ends) == ["SIGPROF", "SIGSEGV", "SIGSEGV", "SIGSEGV"]
    # Each is found by the request whose picture it was.
    at_fault = {answer.headers["x-request-id"] for answer in answers[: len(bad)]}
    assert len({line["request_id"] for line in ends} & at_fault) == 3


FROM_OUTSIDE = [
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM),
    *(signal.SIGTERM, signal.SIGXCPU, signal.SIGKILL, signal.SIGRTMIN + 1),
]
OF_THE_PICTURE = [
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT),
    *(signal.SIGSYS, signal.SIGTRAP),
]


async def test_a_decoder_that_is_ended_from_outside_is_not_blamed_on_its_picture(
    start_server: StartServer,
) -> None:
    """With one decoder, which is the one at work: an idle one might die with the next picture."""
    stub = start_server({"REALFAKE_DECODING__WORKERS": "1"}, stub={}).wait_ready()
    async with stub.async_client() as client:
        for number in (*FROM_OUTSIDE, *OF_THE_PICTURE):
            mark = stub.directory / f"mark-{number:d}"
            body = faults.HANG + str(mark).encode()
            post = asyncio.create_task(client.post(INFER, content=body, headers=JPEG))
            await asyncio.to_thread(eventually, lambda at=mark: at.exists() or None, 30, "work")
            family = descendants(stub.process.pid)
            [decoder] = {pid for pid in family if not descendants(pid)}
            os.kill(decoder, number)
            answer = await post
            outside = number in FROM_OUTSIDE
            expected = (503, "OVERLOADED") if outside else (400, "INVALID_IMAGE")
            assert (answer.status_code, answer.json()["code"]) == expected, number
            assert ("retry-after" in answer.headers) == outside
        assert (await client.post(INFER, content=good(), headers=JPEG)).status_code == 200


async def test_a_hanging_decoder_is_cut_at_the_deadline_and_replaced(stub: ServerProcess) -> None:
    hurry = {**JPEG, "X-Request-Timeout-Ms": "300"}
    async with stub.async_client() as client:
        for _ in range(2):
            late = await asyncio.gather(
                *(client.post(INFER, content=faults.HANG, headers=hurry) for _ in range(2))
            )
            assert {answer.status_code for answer in late} == {504}
        assert (await client.post(INFER, content=good(), headers=JPEG)).status_code == 200


def until_gone(pid: int) -> None:
    eventually(lambda: not alive({pid}) or None, 10, "it to end")


async def test_lanes_that_are_killed_under_load_cost_their_own_pictures_at_most(
    start_server: StartServer,
) -> None:
    """As a kernel short of memory does: what waited with them is answered by the next."""
    server = start_server({"REALFAKE_DECODING__WORKERS": "2"}).wait_ready()
    kills = 4

    def whole_family() -> set[int] | None:
        family = descendants(server.process.pid)
        return family if len(family) == 3 else None

    async with server.async_client() as client:

        async def ask(count: int) -> list[int]:
            return [
                (await client.post(INFER, content=good(), headers=JPEG)).status_code
                for _ in range(count)
            ]

        callers = [asyncio.create_task(ask(25)) for _ in range(8)]
        for _ in range(kills):
            # A nursery whose lanes have both ended looks like one of them.
            family = await asyncio.to_thread(eventually, whole_family, 20, "both lanes")
            lane = min(pid for pid in family if not descendants(pid))
            os.kill(lane, signal.SIGKILL)
            await asyncio.to_thread(until_gone, lane)
        codes = [code for codes in await asyncio.gather(*callers) for code in codes]
    assert set(codes) <= {200, 503}
    assert codes.count(503) <= kills
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


async def test_no_decoder_outlives_a_killed_server(stub: ServerProcess) -> None:
    marks = [stub.directory / name for name in ("one", "two")]
    bodies = [faults.HANG + str(mark).encode() for mark in marks]
    async with stub.async_client() as client:
        posts = [
            asyncio.create_task(client.post(INFER, content=body, headers=JPEG)) for body in bodies
        ]
        at_work = partial(eventually, lambda: all(m.exists() for m in marks) or None, 30, "both")
        await asyncio.to_thread(at_work)
        family = descendants(stub.process.pid)
        assert len(family) == 3, "a nursery and two decoders"
        stub.process.kill()
        stub.wait()
        eventually(lambda: not alive(family) or None, 10, "the decoders to end")
        await asyncio.gather(*posts, return_exceptions=True)


def test_a_stop_leaves_no_decoder_behind(stub: ServerProcess) -> None:
    family = descendants(stub.process.pid)
    stub.signal(signal.SIGTERM)
    assert stub.wait() == 0
    eventually(lambda: not alive(family) or None, 10, "the decoders to end")
