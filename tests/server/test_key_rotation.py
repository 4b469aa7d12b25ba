"""Keys that come and go under a running server, while callers keep asking on both protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from predictor.security.api_keys import generate
from predictor.security.key_files import format_time
from tests.mounted_secret import MountedSecret
from tests.server.conftest import StartServer
from tests.server.process import ServerProcess

ROTATIONS = 100
PROMISE_S = 5.0

Ask = Callable[[str], Awaitable[bool]]


@pytest.fixture
def keys() -> Iterator[str]:
    """An endless supply of new keys."""
    return iter(generate, "")


@pytest.fixture(scope="module")
def followed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerProcess, MountedSecret]]:
    """A server that looks as often as the product does, and the Secret it follows."""
    directory = tmp_path_factory.mktemp("rotation")
    secret = MountedSecret(directory / "secret", {"web": generate()})
    settings = {
        "REALFAKE_AUTH__KEYS_DIR": str(secret.path),
        "STUB_LOG": str(directory / "batches.jsonl"),
    }
    server = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
    try:
        yield server.wait_ready(), secret
    finally:
        assert server.stop() == 0


@asynccontextmanager
async def callers(server: ServerProcess) -> AsyncIterator[list[Ask]]:
    """One way to ask with a key per protocol; each says whether the key was let in."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        grpc.aio.insecure_channel(server.grpc) as channel,
    ):
        stub = pb_grpc.GRPCInferenceServiceStub(channel)

        async def over_http(key: str) -> bool:
            answer = await client.get("/v2", headers={"x-api-key": key})
            assert answer.status_code in (200, 401)
            return answer.status_code == 200

        async def over_grpc(key: str) -> bool:
            try:
                await stub.ServerMetadata(
                    pb.ServerMetadataRequest(), metadata=[("x-api-key", key)], timeout=30
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return False
                raise
            return True

        yield [over_http, over_grpc]


async def within_promise(ask: Ask, key: str, expected: bool) -> None:
    end = time.monotonic() + PROMISE_S
    while await ask(key) is not expected:
        assert time.monotonic() < end, f"{expected} not seen {PROMISE_S:g} s after the swap"
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_hundred_rotations_under_load_refuse_nobody(
    start_server: StartServer, tmp_path: Path, keys: Iterator[str]
) -> None:
    """Callers take the new key once it works, and the old one goes once nobody sends it.

    The server looks 50 times as often as the product, so that each rotation is one it sees.
    """
    steady, current = next(keys), next(keys)
    secret = MountedSecret(tmp_path / "secret", {"steady": steady, "web.0": current})
    server = start_server(
        {"REALFAKE_AUTH__KEYS_DIR": str(secret.path)}, stub={"STUB_POLL_S": "0.02"}
    ).wait_ready()
    refused: list[str] = []
    ends = [asyncio.Event() for _ in range(4)]
    done = False

    async def load(ask: Ask, end_of_round: asyncio.Event) -> None:
        while not done:
            for key in (steady, current):
                if not await ask(key):
                    refused.append("steady" if key == steady else "rotated")
            end_of_round.set()

    async with callers(server) as asks, asyncio.TaskGroup() as group:
        for ask, end in zip(asks * 2, ends, strict=True):
            group.create_task(load(ask, end))
        for number in range(1, ROTATIONS + 1):
            old, new = current, next(keys)
            overlap = {f"web.{number - 1}": old, f"web.{number}": new, "steady": steady}
            secret.publish(overlap)
            for ask in asks:
                await within_promise(ask, new, True)
            current = new
            for end in ends:
                end.clear()
            await asyncio.gather(*(end.wait() for end in ends))  # nobody sends the old one now
            secret.publish({f"web.{number}": new, "steady": steady})
            for ask in asks:
                await within_promise(ask, old, False)
        done = True
    assert not refused
    assert "cannot reload" not in server.log_text()


async def test_a_new_key_begins_and_a_removed_one_ends_in_time(
    followed: tuple[ServerProcess, MountedSecret], keys: Iterator[str]
) -> None:
    server, secret = followed
    old, new = next(keys), next(keys)
    secret.publish({"web": old})
    async with callers(server) as asks:
        for ask in asks:
            await within_promise(ask, old, True)
        secret.publish({"web": old, "web.2": new})
        await asyncio.gather(*(within_promise(ask, new, True) for ask in asks))
        assert [await ask(old) for ask in asks] == [True, True]
        secret.publish({"web.2": new})
        await asyncio.gather(*(within_promise(ask, old, False) for ask in asks))
        assert [await ask(new) for ask in asks] == [True, True]


async def test_a_key_ends_at_its_own_time_and_not_before(
    followed: tuple[ServerProcess, MountedSecret], keys: Iterator[str]
) -> None:
    server, secret = followed
    key = next(keys)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=7)
    secret.publish({"web": next(keys), "web.2": f"{key}\nexpires: {format_time(end)}"})
    async with callers(server) as asks:
        for ask in asks:
            await within_promise(ask, key, True)
        while (now := datetime.now(UTC)) < end:
            lived = [await ask(key) for ask in asks]
            assert lived == [True, True] or datetime.now(UTC) >= end, f"{end - now} early"
            await asyncio.sleep(0.05)
        assert [await ask(key) for ask in asks] == [False, False]


async def test_a_broken_update_refuses_nobody_and_is_logged_once(
    followed: tuple[ServerProcess, MountedSecret], keys: Iterator[str]
) -> None:
    server, secret = followed
    key, new = next(keys), next(keys)
    secret.publish({"web": key})
    async with callers(server) as asks:
        for ask in asks:
            await within_promise(ask, key, True)
        secret.publish({})
        line = await asyncio.to_thread(
            server.wait_for_log, "cannot reload; the last good version stays in use"
        )
        assert line["level"] == "ERROR"
        assert [await ask(key) for ask in asks] == [True, True]
        secret.publish({"web.2": new})
        for ask in asks:
            await within_promise(ask, new, True)
    messages = [line["message"] for line in server.log_lines()]
    assert messages.count("cannot reload; the last good version stays in use") == 1
    assert messages.count("reloading works again") == 1
    assert key not in server.log_text()
    assert new not in server.log_text()
