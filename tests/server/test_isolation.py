"""One caller's misfortune stays its own: hang-ups, deadlines, poison."""

from __future__ import annotations

import asyncio
import io
import json

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.conftest import StartServer
from tests.server.process import BUNDLE, ServerProcess, eventually
from tests.server.stub import POISON

INFER = "/v2/models/realfake/infer"
PNG = {"Content-Type": "image/png"}


def red(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def batches(server: ServerProcess) -> list[list[int]]:
    """What the network was given, batch by batch."""
    path = server.directory / "batches.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def seen(server: ServerProcess, value: int) -> None:
    def found() -> bool | None:
        return any(value in batch for batch in batches(server)) or None

    await asyncio.to_thread(eventually, found, 30, f"the network to see {value}")


async def settled(server: ServerProcess, request_id: str) -> dict[str, object]:
    """The access log line of a request, once the server has dealt with it."""

    def line() -> dict[str, object] | None:
        lines = server.log_lines()
        own = (line for line in lines if line.get("request_id") == request_id)
        return next((line for line in own if line["message"] == "request"), None)

    return await asyncio.to_thread(eventually, line, 30, f"request {request_id} to end")


def message(value: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    data = red(value)
    request.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    return request


async def test_queued_work_of_callers_who_hang_up_never_runs(start_server: StartServer) -> None:
    server = start_server(
        {"REALFAKE_BATCHING__MAX_BATCH_SIZE": "1"}, stub={"STUB_FORWARD_S": "1"}
    ).wait_ready()
    key = ("x-api-key", server.api_key)
    async with server.async_client() as client, grpc.aio.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        first = asyncio.create_task(client.post(INFER, content=red(10), headers=PNG))
        await seen(server, 10)  # the device is busy for a second
        _, writer = await asyncio.open_connection("127.0.0.1", server.listening["http_port"])
        body = red(20)
        head = (
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nX-API-Key: {server.api_key}\r\n"
            f"X-Request-Id: gone\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        call = stub.ModelInfer(message(30), metadata=[key, ("x-request-id", "gone-too")])
        await asyncio.sleep(0.2)  # both are queued or about to be; either must end the same way
        writer.close()
        call.cancel()
        assert (await settled(server, "gone"))["status"] == 499
        assert (await settled(server, "gone-too"))["code"] == "CANCELLED"
        last = await client.post(INFER, content=red(40), headers=PNG)
        assert (await first).status_code == last.status_code == 200
    assert batches(server) == [[10], [40]]


async def test_an_expired_deadline_is_answered_and_never_reaches_the_device(
    start_server: StartServer,
) -> None:
    server = start_server(
        {"REALFAKE_BATCHING__MAX_BATCH_SIZE": "1"}, stub={"STUB_FORWARD_S": "1.5"}
    ).wait_ready()
    key = ("x-api-key", server.api_key)
    async with server.async_client() as client, grpc.aio.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        first = asyncio.create_task(client.post(INFER, content=red(10), headers=PNG))
        await seen(server, 10)
        by_header = client.post(
            INFER, content=red(20), headers={**PNG, "X-Request-Timeout-Ms": "200"}
        )
        by_parameter = message(30)
        by_parameter.parameters["timeout"].int64_param = 200_000

        async def over_grpc(request: pb.ModelInferRequest, timeout: float) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.ModelInfer(request, metadata=[key], timeout=timeout)
            return late.value.code().name

        late, code, own = await asyncio.gather(
            by_header, over_grpc(by_parameter, 30), over_grpc(message(40), 0.2)
        )
        assert late.status_code == 504
        assert late.json()["code"] == "DEADLINE_EXCEEDED"
        assert code == own == "DEADLINE_EXCEEDED"
        assert not first.done(), "the deadline must not wait for the batch in front"
        assert (await first).status_code == 200
        assert (await client.post(INFER, content=red(50), headers=PNG)).status_code == 200
    assert batches(server) == [[10], [50]]


async def test_a_picture_that_breaks_the_network_fails_alone(start_server: StartServer) -> None:
    server = start_server(stub={"STUB_FORWARD_S": "0.3"}).wait_ready()
    async with server.async_client() as client:
        values = list(range(100, 132))
        requests = [client.post(INFER, content=red(v), headers=PNG) for v in [*values, POISON]]
        requests.append(client.post(INFER, content=b"\xff\xd8 not a picture", headers=PNG))
        *good, poisoned, broken = await asyncio.gather(*requests)
    for value, response in zip(values, good, strict=True):
        assert response.status_code == 200, response.text
        probability = response.json()["outputs"][0]["data"][0]
        temperature = json.loads((BUNDLE / "realfake.json").read_text())["temperature"]
        assert probability == pytest.approx(1 / (1 + np.exp(-value / 100 / temperature)), abs=1e-6)
    assert poisoned.status_code == 500
    assert set(poisoned.json()) == {"error", "code", "request_id"}
    assert "secret-of-the-network" not in poisoned.text
    assert broken.status_code == 400
    assert any(len(batch) > 1 for batch in batches(server)), "nothing was batched"


async def test_more_than_the_queue_holds_is_refused_with_when_to_return(
    start_server: StartServer,
) -> None:
    server = start_server(
        {
            "REALFAKE_BATCHING__MAX_BATCH_SIZE": "1",
            "REALFAKE_BATCHING__MAX_QUEUE": "5",
            "REALFAKE_LIMITS__MAX_PICTURES": "4",
        },
        stub={"STUB_FORWARD_S": "0.5"},
    ).wait_ready()
    limits = httpx.Limits(max_connections=40)
    async with server.async_client(limits=limits) as client:
        answers = await asyncio.gather(
            *(client.post(INFER, content=red(v), headers=PNG) for v in range(20))
        )
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 4
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["code"] == "OVERLOADED"
            assert int(answer.headers["retry-after"]) >= 1
