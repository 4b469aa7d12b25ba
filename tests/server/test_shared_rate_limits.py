"""Rate limits that two processes share in a real Redis, which dies, hangs and comes back."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from predictor.security.rate_limits import RateLimits
from predictor.settings import RateLimitSettings
from tests.pictures import jpeg
from tests.server.process import ServerProcess
from tests.server.redis import PASSWORD, RedisProcess, needs_redis
from tests.server.scrape import scrape

pytestmark = needs_redis

INFER = "/v2/models/realfake/infer"
HEADERS = {"Content-Type": "image/jpeg"}
FLEET = ("open", "closed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture(scope="module")
def fleet(
    store: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ServerProcess]]:
    """Two replicas that share one limit; one of them refuses while the store fails."""
    replicas = {}
    for name in FLEET:
        directory = tmp_path_factory.mktemp(name)
        settings = {
            "REALFAKE_RATE_LIMIT__RATE": "40/day",
            "REALFAKE_RATE_LIMIT__REDIS_URL_FILE": str(store.url_file),
            "REALFAKE_RATE_LIMIT__ON_STORE_FAILURE": name,
            # A busy test machine is slow, not failed.
            "REALFAKE_RATE_LIMIT__STORE_TIMEOUT_MS": "2000",
            "STUB_LOG": str(directory / "batches.jsonl"),
        }
        replicas[name] = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
        (directory / "keys" / "spent").write_text(key_of("spent"))
        (directory / "keys" / "faults").write_text(key_of("faults"))
    try:
        yield {name: replica.wait_ready() for name, replica in replicas.items()}
    finally:
        codes = [replica.stop() for replica in replicas.values()]
        assert codes == [0] * len(FLEET)
        for replica in replicas.values():
            assert PASSWORD not in replica.log_text()


def key_of(name: str) -> str:
    return f"tests-0123456789abcdefghijkl-{name}"


async def send(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await client.post(
        INFER, content=jpeg(), headers={**HEADERS, "X-API-Key": key, **headers}
    )


async def call(stub: pb_grpc.GRPCInferenceServiceStub, key: str) -> str:
    request = pb.ModelInferRequest(model_name="realfake")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(jpeg())
    try:
        await stub.ModelInfer(request, metadata=[("x-api-key", key)], timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_two_replicas_admit_the_rate_together_to_the_picture(
    fleet: dict[str, ServerProcess],
) -> None:
    key = key_of("spent")
    async with (
        fleet["open"].async_client() as one,
        fleet["closed"].async_client() as two,
        grpc.aio.insecure_channel(fleet["closed"].grpc) as channel,
    ):
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        codes, calls = await asyncio.gather(
            asyncio.gather(*(send(client, key) for _ in range(40) for client in (one, two))),
            asyncio.gather(*(call(stub, key) for _ in range(20))),
        )
        admitted = Counter(response.status_code for response in codes)
        assert admitted[200] + admitted[429] == 80
        assert admitted[200] + calls.count("OK") == 40
        assert set(calls) <= {"OK", "RESOURCE_EXHAUSTED"}
        # What is refused says for how long, and nobody else is refused.
        refused = await send(one, key)
        assert 0 < int(refused.headers["retry-after"]) <= 86401
        assert (await send(two, fleet["closed"].api_key)).status_code == 200


async def test_a_store_that_is_killed_under_load_opens_or_closes_and_comes_back(
    fleet: dict[str, ServerProcess], store: RedisProcess
) -> None:
    key, under_way = key_of("faults"), asyncio.Event()

    async def load(client: httpx.AsyncClient) -> Counter[int]:
        codes: Counter[int] = Counter()
        for _ in range(10):
            answers = await asyncio.gather(*(send(client, key) for _ in range(10)))
            codes.update(answer.status_code for answer in answers)
            under_way.set()
        return codes

    async def counted(client: httpx.AsyncClient) -> httpx.Response:
        """Ask until the limit counts again."""
        for _ in range(600):
            answer = await send(client, key)
            if "ratelimit" in answer.headers:
                return answer
            await asyncio.sleep(0.1)
        raise AssertionError("the store is back, and not used")

    assert [store_failures(fleet[name]) for name in FLEET] == [0, 0]
    async with fleet["open"].async_client() as one, fleet["closed"].async_client() as two:
        traffic = asyncio.gather(load(one), load(two))
        await under_way.wait()
        store.kill()
        of_open, of_closed = await traffic
        assert set(of_open) <= {200, 429}
        assert set(of_closed) <= {200, 429, 503}
        for client, expected in ((one, 200), (two, 503)):
            answer = await send(client, key)
            assert (answer.status_code, "ratelimit" in answer.headers) == (expected, False)
            assert (await client.get("/v2/health/ready")).status_code == 200
        assert answer.json()["code"] == "NOT_READY"
        for name in FLEET:
            assert await asyncio.to_thread(store_failures, fleet[name]) > 0, name
        await asyncio.to_thread(store.start)
        answers = await asyncio.gather(counted(one), counted(two))
        # The store that came back knows nothing of before.
        assert [answer.status_code for answer in answers] == [200, 200]
        before = {name: await asyncio.to_thread(store_failures, fleet[name]) for name in FLEET}
        await asyncio.gather(send(one, key), send(two, key))
        after = {name: await asyncio.to_thread(store_failures, fleet[name]) for name in FLEET}
        assert after == before
    assert len(failures(fleet["open"])) == len(failures(fleet["closed"])) == 1


async def test_a_store_that_hangs_stalls_nobody(
    fleet: dict[str, ServerProcess], store: RedisProcess
) -> None:
    store.freeze()
    try:
        async with fleet["open"].async_client() as one, fleet["closed"].async_client() as two:
            in_time = {"X-Request-Timeout-Ms": "5000"}
            for client, expected in ((one, 200), (two, 503)):
                # One after the other: a stall each would pass any deadline.
                codes = [
                    (await send(client, key_of("faults"), **in_time)).status_code for _ in range(60)
                ]
                assert set(codes) == {expected}
    finally:
        store.thaw()
    assert failures(fleet["closed"])[-1]["error_type"] == "TimeoutError"


def store_failures(server: ServerProcess) -> float:
    return scrape(server).value("inference_rate_limit_store_failures_total")


def failures(server: ServerProcess) -> list[dict[str, str]]:
    message = "the rate limit's store failed"
    return [line for line in server.log_lines() if line["message"] == message]


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return key, cert


async def test_a_rediss_url_verifies_whom_it_talks_to(tmp_path: Path) -> None:
    tls, other = certificate(tmp_path, "redis"), certificate(tmp_path, "other")
    with RedisProcess(tmp_path, tls) as store:
        for (_, trusted), counted in ((tls, True), (other, False)):
            store.url_file.write_text(f"{store.url}?ssl_ca_certs={trusted}")
            settings = RateLimitSettings(
                rate="5/minute", redis_url_file=store.url_file, store_timeout_ms=10_000
            )
            limits = RateLimits.from_settings(settings, "realfake")
            assert limits is not None
            assert (await limits.take("web", 1) is not None) == counted
            await limits.close()
