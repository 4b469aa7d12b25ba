"""More than can be served: who waits, who is refused, and what a refusal is worth."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import connect, head

INFER = "/v2/models/realfake/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
ONE_AT_A_TIME = {"REALFAKE_BATCHING__MAX_BATCH_SIZE": "1"}
OTHER_KEY = "rf_another-caller-0123456789abcdefghdc6d0ea0"


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def post(client: httpx.AsyncClient, red: int, **headers: str) -> asyncio.Task[httpx.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(
        client.post(INFER, content=picture(red), headers={"Content-Type": "image/png"} | named)
    )


def reached(server: ServerProcess) -> list[int]:
    """Which pictures the network has seen, in order."""
    path = server.directory / "batches.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [red for line in lines for red in json.loads(line)]


async def until_reached(server: ServerProcess, count: int) -> None:
    """Which of those sent together goes first is not told: they are decoded in parallel."""
    await asyncio.to_thread(
        eventually,
        lambda: len(reached(server)) >= count or None,
        30,
        f"the network to see {count} pictures",
    )


async def test_what_would_be_late_is_refused_at_once_and_told_when_to_return(
    start_server: StartServer,
) -> None:
    server = start_server(ONE_AT_A_TIME, stub={"STUB_FORWARD_S": "0.4"}).wait_ready()
    async with server.async_client() as client, grpc.aio.insecure_channel(server.grpc) as channel:
        assert (await post(client, 1)).status_code == 200  # now it is known what a forward costs
        waiting = [post(client, red) for red in range(10, 17)]
        await until_reached(server, 2)
        late = await post(client, 20, X_Request_Timeout_Ms="1000")
        assert (late.status_code, late.json()["code"]) == (503, "OVERLOADED")

        request = pb.ModelInferRequest(model_name="realfake")
        request.inputs.add(
            name="image", datatype="BYTES", shape=[1]
        ).contents.bytes_contents.append(picture(30))
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(request, metadata=[("x-api-key", server.api_key)], timeout=1)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not all(task.done() for task in waiting), "the refusals waited for the answers"
        precisely_s = int(late.headers["retry-after-ms"]) / 1000
        assert 0 < precisely_s <= int(late.headers["retry-after"]) < precisely_s + 1
        # The second of two who are refused; that time has passed meanwhile.
        assert precisely_s < retry_delay_s(refused.value) < precisely_s + 2

        await asyncio.sleep(int(late.headers["retry-after"]))
        again = await post(client, 21, X_Request_Timeout_Ms="1000")
        assert again.status_code == 200
        assert {(await task).status_code for task in waiting} == {200}
    assert not {20, 30} & set(reached(server))


async def test_a_grpc_message_later_than_its_deadline_is_late_and_no_overload(
    start_server: StartServer,
) -> None:
    """Whoever is told to retry would do so for ever: it is the upload that takes too long."""
    server = start_server(ONE_AT_A_TIME, stub={"STUB_FORWARD_S": "1.5"}).wait_ready()
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        picture(2)
    )

    async def upload() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.3)
        yield request.SerializeToString()

    async with server.async_client() as client, grpc.aio.insecure_channel(server.grpc) as channel:
        inside = post(client, 1)
        await until_reached(server, 1)
        method: Any = channel.stream_unary(METHOD, None, None)
        metadata = [("x-api-key", server.api_key), ("x-request-timeout-ms", "100")]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(upload(), metadata=metadata, timeout=30)
        assert not inside.done(), "there was nothing inside any more"
        assert (await inside).status_code == 200
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(refused.value.details()).startswith("DEADLINE_EXCEEDED: ")


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_later_than_its_deadline_is_late_and_gives_its_place_back(
    framing: str, start_server: StartServer
) -> None:
    """Else who sends half of it holds a place, and memory, for `limits.receive_timeout_s`."""
    settings = {"REALFAKE_LIMITS__MAX_IN_FLIGHT": "1", "REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "60"}
    server = start_server(settings, stub={}).wait_ready()
    begun = head(server, "X-Request-Timeout-Ms: 200", framing)
    with connect(server) as raw:
        raw.sendall(begun + (b"1\r\nx\r\n" if "chunked" in framing else b"x"))
        answer = b""
        while not answer.endswith(b"}"):
            answer += raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"DEADLINE_EXCEEDED" in answer
        async with server.async_client() as client:
            assert (await post(client, 1)).status_code == 200


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    metadata: Any = error.trailing_metadata()
    trailing = dict(metadata)
    for detail in status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    raise AssertionError("no RetryInfo")


@pytest.mark.parametrize(("weights", "turn"), [(None, 1), ("tests=3", 3)])
async def test_a_key_that_floods_does_not_make_another_wait(
    weights: str | None, turn: int, start_server: StartServer
) -> None:
    settings = ONE_AT_A_TIME | ({"REALFAKE_BATCHING__WEIGHTS": weights} if weights else {})
    server = start_server(settings, stub={"STUB_FORWARD_S": "0.1"}, keys={"other": OTHER_KEY})
    server.wait_ready()
    async with server.async_client() as client:
        flood = [post(client, red) for red in range(40)]
        await until_reached(server, 1)
        mine = [post(client, red, X_API_Key=OTHER_KEY) for red in (100, 101, 102)]
        answers = await asyncio.gather(*mine)
        assert {answer.status_code for answer in answers} == {200}
        assert not all(task.done() for task in flood), "the flood went first"
        assert {(await task).status_code for task in flood} == {200}
    order = reached(server)
    first, last = order.index(100), order.index(102)
    # Between two of mine, one turn of the other's, and what was decoded for it already.
    assert last - first <= 2 * (turn + 1) + 4


async def test_a_key_that_floods_leaves_room_for_another(start_server: StartServer) -> None:
    """Even where the flood is larger than every queue."""
    server = start_server(
        ONE_AT_A_TIME
        | {
            "REALFAKE_BATCHING__MAX_QUEUE": "20",
            "REALFAKE_LIMITS__MAX_PICTURES": "20",
            "REALFAKE_LIMITS__MAX_IN_FLIGHT": "30",
        },
        stub={"STUB_FORWARD_S": "0.2"},
        keys={"other": OTHER_KEY},
    ).wait_ready()
    limits = httpx.Limits(max_connections=200)
    async with server.async_client(limits=limits) as client:
        flood = [post(client, red) for red in range(60)]
        await until_reached(server, 1)
        assert (await post(client, 100, X_API_Key=OTHER_KEY)).status_code == 200
        codes = [(await task).status_code for task in flood]
    assert set(codes) == {200, 503}


async def test_a_key_that_announces_much_leaves_bytes_for_another(
    start_server: StartServer,
) -> None:
    """Bodies that are announced, and never come."""
    size = 1024 * 1024
    server = start_server(
        {
            "REALFAKE_LIMITS__MAX_REQUEST_BYTES": str(size),
            "REALFAKE_LIMITS__MAX_IMAGE_BYTES": str(size),
            "REALFAKE_LIMITS__MAX_BYTES_IN_FLIGHT": str(10 * size),
        },
        stub={},
        keys={"other": OTHER_KEY},
    ).wait_ready()
    request = head(server, "Content-Type: image/png", f"Content-Length: {size}")
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(server)).sendall(request)
        async with server.async_client() as client:
            while (await post(client, 1)).status_code == 200:
                pass  # until all of them have been read
            assert (await post(client, 2, X_API_Key=OTHER_KEY)).status_code == 200
