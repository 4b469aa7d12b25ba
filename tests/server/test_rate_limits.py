"""Rate limits of one real process: the same on every protocol, with honest headers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.pictures import jpeg
from tests.server.process import ServerProcess

INFER = "/v2/models/realfake/infer"
PREDICT = "/v1/models/realfake:predict"
LEFT = re.compile(r'"pictures";r=(\d+);t=(\d+)')


class Caller:
    """Somebody with a key of its own, so that one server serves all tests here."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self.server = server
        self.headers = {"X-API-Key": key_of(name)}
        self.metadata = [("x-api-key", key_of(name))]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, headers=self.headers, timeout=60)

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, headers=self.headers, timeout=60)

    def call(self, pictures: int) -> tuple[dict[str, Any], Any]:
        """Initial metadata of an answer over gRPC, or the error."""
        with grpc.insecure_channel(self.server.grpc) as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            try:
                _, call = stub.ModelInfer.with_call(
                    picture_request(pictures), metadata=self.metadata, timeout=30
                )
            except grpc.RpcError as error:
                return {}, error
        return dict(call.initial_metadata()), None


RATES = {
    "protocols": "20/day",
    "whole": "5/minute",
    "retry-after": "3/2second",
    "retry-info": "2/3second",
    "pushback": "2/2second",
    "flood": "25/day",
    "greedy": "1/day",
    "never": "2/day",
    "broken": "1/day",
}


def key_of(name: str) -> str:
    return f"tests-0123456789abcdefghijkl-{name}"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server where every key that `RATES` names has that rate, and others 30 pictures a day."""
    directory = tmp_path_factory.mktemp("limited")
    keys = directory / "keys"
    keys.mkdir()
    for name in (*RATES, "modest"):
        (keys / name).write_text(key_of(name))
    rates = ",".join(f"{name}={rate}" for name, rate in RATES.items())
    settings = {
        "REALFAKE_RATE_LIMIT__RATE": "30/day",
        "REALFAKE_RATE_LIMIT__RATES": rates,
        "STUB_LOG": str(directory / "batches.jsonl"),
    }
    server = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


def picture_request(pictures: int = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="realfake")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[pictures])
    tensor.contents.bytes_contents.extend([jpeg()] * pictures)
    return request


def v2_body(pictures: int) -> dict[str, Any]:
    data = [base64.b64encode(jpeg()).decode()] * pictures
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [pictures], "data": data}]}


def v1_body(pictures: int) -> dict[str, Any]:
    return {"instances": [{"image": {"b64": base64.b64encode(jpeg()).decode()}}] * pictures}


def raw(client: httpx.Client, path: str) -> httpx.Response:
    return client.post(path, content=jpeg(), headers={"Content-Type": "image/jpeg"})


ROUTES: dict[str, tuple[int, Callable[[httpx.Client], httpx.Response]]] = {
    "v2 json": (3, lambda client: client.post(INFER, json=v2_body(3))),
    "v2 raw": (1, lambda client: raw(client, INFER)),
    "v1 json": (2, lambda client: client.post(PREDICT, json=v1_body(2))),
    "v1 raw": (1, lambda client: raw(client, PREDICT)),
    "legacy": (1, lambda client: client.post("/infer", files={"file": ("a.jpg", jpeg())})),
}


def left(headers: Any) -> tuple[int, int]:
    match = LEFT.fullmatch(headers["ratelimit"])
    assert match is not None
    return int(match[1]), int(match[2])


def test_every_protocol_draws_on_one_allowance_by_pictures(limited: ServerProcess) -> None:
    caller = Caller(limited, "protocols")
    rest = 20
    with caller.client() as client:
        for pictures, send in ROUTES.values():
            response = send(client)
            rest -= pictures
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == '"pictures";q=20;qu="pictures";w=86400'
            assert left(response.headers)[0] == rest
        metadata, _ = caller.call(4)
        rest -= 4
        assert left(metadata)[0] == rest
        # What needs no pictures is not limited, and says nothing about limits.
        assert "ratelimit" not in client.get("/v2/models/realfake").headers
        assert client.post(INFER, json=v2_body(rest)).status_code == 200
        for _, send in ROUTES.values():
            assert send(client).status_code == 429
        _, error = caller.call(1)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_refused_request_uses_nothing_and_says_when_to_come_back(limited: ServerProcess) -> None:
    caller = Caller(limited, "whole")
    with caller.client() as client:
        assert client.post(INFER, json=v2_body(3)).status_code == 200
        refused = client.post(INFER, json=v2_body(3))
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        rest, window_s = left(refused.headers)
        assert rest == 2
        assert 0 < window_s <= int(refused.headers["retry-after"]) <= 60
        # The two that are left are still there for whoever asks for no more.
        assert client.post(INFER, json=v2_body(2)).status_code == 200


async def test_who_obeys_retry_after_is_served(limited: ServerProcess) -> None:
    caller = Caller(limited, "retry-after")
    async with caller.async_client() as client:
        for pictures in (1, 2, 3, 2):
            response = await client.post(INFER, json=v2_body(pictures))
            if response.status_code == 429:
                await asyncio.sleep(int(response.headers["retry-after"]))
                response = await client.post(INFER, json=v2_body(pictures))
            assert response.status_code == 200


async def test_who_obeys_retry_info_is_served(limited: ServerProcess) -> None:
    caller = Caller(limited, "retry-info")
    assert caller.call(2)[1] is None
    _, error = caller.call(2)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details().startswith("RATE_LIMITED: ")
    trailing = dict(error.trailing_metadata())
    assert left(trailing)[0] == 0
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    await asyncio.sleep(retry.retry_delay.ToTimedelta().total_seconds())
    assert caller.call(2)[1] is None


def test_grpcs_own_retry_comes_back_when_it_is_told_to(limited: ServerProcess) -> None:
    """With a policy of its own alone it would have asked five times within a tenth of a second."""
    caller = Caller(limited, "pushback")
    policy = {
        **{"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s"},
        **{"backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]},
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    assert caller.call(2)[1] is None
    options = [("grpc.service_config", json.dumps(config))]
    with grpc.insecure_channel(limited.grpc, options) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(picture_request(2), metadata=caller.metadata, timeout=30)


async def test_a_flood_on_both_protocols_is_admitted_to_the_picture(limited: ServerProcess) -> None:
    caller = Caller(limited, "flood")
    async with caller.async_client() as client, grpc.aio.insecure_channel(limited.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)

        async def over_http() -> int:
            response = await client.post(INFER, json=v2_body(2))
            assert response.status_code in (200, 429)
            return 2 if response.status_code == 200 else 0

        async def over_grpc() -> int:
            try:
                await stub.ModelInfer(picture_request(), metadata=caller.metadata, timeout=60)
            except grpc.aio.AioRpcError as error:
                return 0 if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else 1000
            return 1

        admitted = await asyncio.gather(
            *(send() for _ in range(40) for send in (over_http, over_grpc))
        )
        assert sum(admitted) == 25


async def test_a_key_at_its_limit_takes_nothing_from_others(limited: ServerProcess) -> None:
    greedy, modest = Caller(limited, "greedy"), Caller(limited, "modest")

    async def flood(caller: Caller, times: int) -> list[int]:
        async with caller.async_client() as client:
            sent = (client.post(INFER, json=v2_body(1)) for _ in range(times))
            return [response.status_code for response in await asyncio.gather(*sent)]

    of_greedy, of_modest = await asyncio.gather(flood(greedy, 60), flood(modest, 30))
    assert sorted(of_greedy) == [200] + [429] * 59
    assert of_modest == [200] * 30


def test_a_request_over_the_whole_rate_is_invalid_not_late(limited: ServerProcess) -> None:
    """A Retry-After would be a lie: it never fits."""
    caller = Caller(limited, "never")
    with caller.client() as client:
        response = client.post(INFER, json=v2_body(3))
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")
    assert "at most 2" in response.json()["error"]
    assert "retry-after" not in response.headers


def test_a_picture_that_cannot_be_read_has_been_counted(limited: ServerProcess) -> None:
    """Decoding is what it costs; free attempts would be a way round the limit."""
    with Caller(limited, "broken").client() as client:
        headers = {"Content-Type": "image/jpeg"}
        first = client.post(INFER, content=jpeg()[:200], headers=headers)
        assert (first.status_code, left(first.headers)[0]) == (400, 0)
        assert client.post(INFER, content=jpeg(), headers=headers).status_code == 429
