"""Decoding in processes: what breaks a decoder costs its own picture, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import time
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from hack.load.decode_one import decode_one
from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    StartupError,
    WireError,
)
from predictor.inference.decode_nursery import DecoderProcess, Nursery
from predictor.inference.decode_pool import DecodePool
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_threads import ThreadDecodePool
from predictor.inference.decoding import DecodeLimits
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Pixels, Tensor
from predictor.settings.groups import DecodingSettings
from tests import faults, hostile, pictures
from tests.processes import alive, descendants, threads
from tests.server.process import eventually
from tests.unit.decoders import MIB, PREPROCESSING, opened, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[ProcessDecodePool]:
    async with opened(workers=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def here() -> Iterator[DecodePool]:
    pool = ThreadDecodePool(PREPROCESSING, DecodeLimits(), workers=1)
    yield pool
    pool.close()


async def decoded(pool: DecodePool, data: bytes, within_s: float = 30.0) -> EngineInput:
    return (await decode_one(pool, EncodedImage(data), time.monotonic() + within_s)).array


async def outcome(pool: DecodePool, data: bytes) -> EngineInput | tuple[str, str]:
    try:
        return await decoded(pool, data)
    except WireError as error:
        return error.code, error.message


async def decoder_pid(pool: DecodePool) -> int:
    return int.from_bytes((await decoded(pool, faults.WHO)).tobytes()[:4], "little")


@pytest.mark.parametrize(
    "make",
    [*hostile.GOOD.values(), *(bad.make for bad in hostile.HOSTILE)],
    ids=[*hostile.GOOD, *(bad.name for bad in hostile.HOSTILE)],
)
@pytest.mark.filterwarnings("ignore:.*(Tag data|EXIF)")
async def test_both_modes_answer_alike(
    make: object, pool: ProcessDecodePool, here: DecodePool
) -> None:
    assert callable(make)
    data = make()
    outside, inside = await outcome(pool, data), await outcome(here, data)
    np.testing.assert_array_equal(outside, inside)


async def test_what_is_decoded_already_is_prepared_alike(
    pool: ProcessDecodePool, here: DecodePool
) -> None:
    pixels = Pixels(np.asarray(pictures.noise()))
    tensor = Tensor(np.ones((3, 64, 64), dtype=np.float32))
    for picture in (pixels, tensor):
        np.testing.assert_array_equal(
            (await decode_one(pool, picture)).array, (await decode_one(here, picture)).array
        )


@pytest.mark.parametrize(("data", "error", "words"), faults.COSTS)
async def test_what_breaks_a_decoder_costs_its_own_picture(
    data: bytes, error: type[WireError], words: str, pool: ProcessDecodePool
) -> None:
    good = pictures.jpeg()
    expected = await decoded(pool, good)
    broken, *neighbours = await asyncio.gather(
        decoded(pool, data), *(decoded(pool, good) for _ in range(8)), return_exceptions=True
    )
    assert type(broken) is error
    with pytest.raises(error, match=words):
        raise broken
    for answer in [*neighbours, *[await decoded(pool, good) for _ in range(4)]]:
        np.testing.assert_array_equal(answer, expected)


async def test_a_bug_is_logged_by_its_place_and_never_by_its_words(
    pool: ProcessDecodePool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError):
        await decoded(pool, faults.BUG)
    assert "faults.py" in caplog.records[-1].__dict__["place"]
    assert "secret" not in str(caplog.records[-1].__dict__)


async def test_a_decoder_that_hangs_is_ended_at_the_deadline() -> None:
    async with opened(workers=1) as pool:
        first = await decoder_pid(pool)
        with pytest.raises(DeadlineExceeded):
            await decoded(pool, faults.HANG, within_s=0.2)
        assert await decoder_pid(pool) != first
        assert alive({first}) == set()


async def test_an_expired_picture_is_not_decoded(pool: ProcessDecodePool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(DeadlineExceeded):
        await decoded(pool, faults.TOUCH + str(mark).encode(), within_s=0)
    assert not mark.exists()


async def test_a_picture_of_too_many_bytes_never_reaches_a_decoder(
    pool: ProcessDecodePool, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    large = (faults.TOUCH + str(mark).encode() + b"\0").ljust(DecodeLimits().max_bytes + 1, b"\0")
    with pytest.raises(PayloadTooLarge):
        await decoded(pool, large)
    assert not mark.exists()


async def test_a_pool_is_lost_only_with_its_last_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(nursery: Nursery) -> DecoderProcess:
        raise OSError

    monkeypatch.setattr("predictor.inference.decode_keepers.LOST_AFTER_S", 0.0)
    async with opened(workers=2) as pool:
        monkeypatch.setattr(Nursery, "start_decoder", fails)
        with pytest.raises(InvalidImage):
            await decoded(pool, faults.CRASH)
        assert pool.healthy
        async with asyncio.timeout(30):
            while pool.healthy:
                with contextlib.suppress(InvalidImage, Overloaded):
                    await decoded(pool, faults.CRASH)


async def test_a_place_without_a_decoder_is_filled_again_whatever_kept_it_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, failures = Nursery.start_decoder, [RuntimeError("no thread"), OSError("no descriptor")]

    def fails(nursery: Nursery) -> DecoderProcess:
        if failures:
            raise failures.pop()
        return start(nursery)

    monkeypatch.setattr("predictor.inference.decode_keepers.LOST_AFTER_S", 0.0)
    monkeypatch.setattr("predictor.inference.decode_keepers.RETRY_S", 0.05)
    async with opened(workers=1) as pool:
        await decoded(pool, pictures.jpeg())
        monkeypatch.setattr(Nursery, "start_decoder", fails)
        with pytest.raises(InvalidImage):
            await decoded(pool, faults.CRASH)
        lost = False
        async with asyncio.timeout(30):
            while failures or lost != pool.healthy:  # until it is well again
                lost = lost or not pool.healthy
                await asyncio.sleep(0.001)
        await decoded(pool, pictures.jpeg())


async def test_a_nursery_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictor.inference.decode_nursery.START_S", 1.0)
    before = descendants(os.getpid())
    async with opened(workers=1) as pool:
        decoder = await decoder_pid(pool)
        [nursery] = {pid for pid in descendants(os.getpid()) - before if descendants(pid)}
        os.kill(nursery, signal.SIGSTOP)
        os.kill(decoder, signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(Overloaded):
                    await decoded(pool, pictures.jpeg())
                    break
                await asyncio.sleep(0.05)
        assert alive({nursery}) == set()


async def test_a_short_deadline_does_not_cost_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine with other work may take the real one for a small picture.
    monkeypatch.setattr("predictor.inference.decode_channel.WORTH_KILLING_S", 30.0)
    async with opened(workers=1) as pool:
        first = await decoder_pid(pool)
        for _ in range(20):
            await outcome_within(pool, pictures.jpeg(), 0.0005)
        assert await decoder_pid(pool) == first


async def outcome_within(pool: DecodePool, data: bytes, within_s: float) -> None:
    try:
        await decoded(pool, data, within_s)
    except DeadlineExceeded:
        return


async def test_a_cancelled_picture_leaves_the_queue(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with opened(workers=1) as pool:
        in_front = asyncio.ensure_future(decoded(pool, faults.HANG, within_s=0.5))
        await asyncio.sleep(0)  # submitted
        queued = asyncio.ensure_future(decoded(pool, faults.TOUCH + str(mark).encode()))
        await asyncio.sleep(0)
        assert pool.backlog == 2
        queued.cancel()
        await asyncio.wait([queued])
        assert pool.backlog == 1
        with pytest.raises(DeadlineExceeded):
            await in_front
        await decoded(pool, pictures.jpeg())
        assert not mark.exists()


async def test_decoders_killed_while_idle_cost_no_picture(pool: ProcessDecodePool) -> None:
    expected = await decoded(pool, pictures.jpeg())
    victims = {await decoder_pid(pool) for _ in range(8)}
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    eventually(lambda: not alive(victims) or None, 10, "the decoders to end")
    for _ in range(4):
        np.testing.assert_array_equal(await decoded(pool, pictures.jpeg()), expected)


async def test_a_killed_nursery_is_replaced() -> None:
    before = descendants(os.getpid())
    async with opened(workers=2) as pool:
        family = descendants(os.getpid()) - before
        decoder = await decoder_pid(pool)
        (nursery,) = (pid for pid in family if decoder in descendants(pid))
        assert threads(nursery) == 1, "forking a process of several threads is not safe"
        os.kill(nursery, signal.SIGKILL)
        eventually(lambda: not alive(family) or None, 10, "decoders to follow their nursery")
        answers = await asyncio.gather(*(decoded(pool, pictures.jpeg()) for _ in range(4)))
        assert len(answers) == 4


async def test_a_decoder_is_replaced_after_its_time() -> None:
    async with opened(workers=1, recycle_after=3) as pool:
        served = [await decoder_pid(pool) for _ in range(7)]
    assert [served.count(pid) for pid in dict.fromkeys(served)] == [3, 3, 1]


async def test_a_closed_pool_refuses_and_leaves_no_process() -> None:
    before = descendants(os.getpid())
    pool = ProcessDecodePool(terms(), workers=1)
    family = descendants(os.getpid()) - before
    hanging = asyncio.ensure_future(decoded(pool, faults.HANG))
    queued = asyncio.ensure_future(decoded(pool, pictures.jpeg()))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(NotReady):
        await hanging
    with pytest.raises(NotReady):
        await queued
    with pytest.raises(NotReady):
        await decoded(pool, pictures.jpeg())
    await pool.wait_closed()
    eventually(lambda: not alive(family) or None, 10, "the processes to end")


async def test_decoders_that_cannot_start_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_in_this_process")
    exec("def decode(data, preprocessing, limits): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    broken = dataclasses.replace(terms(), decoder=module.decode)
    with pytest.raises(StartupError, match=r"decoding\.mode"):
        ProcessDecodePool(broken, workers=1)


def largest() -> dict[str, bytes]:
    side = 5000
    flat = Image.new("RGBA", (side, side), (10, 200, 30, 128))
    grey = Image.fromarray(np.full((side, side), 4000, dtype=np.uint16))
    return {
        "rgba png": pictures.saved(flat, "PNG", compress_level=1),
        "16-bit png": pictures.saved(grey, "PNG", compress_level=1),
        "webp with alpha": pictures.saved(flat, "WEBP", method=0, lossless=True, quality=0),
        "cmyk jpeg with profile and orientation": pictures.saved(
            Image.new("CMYK", (side, side), (200, 0, 200, 0)),
            "JPEG",
            icc_profile=hostile.cmyk_profile(),
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        ),
        "progressive jpeg": pictures.saved(flat.convert("RGB"), "JPEG", progressive=True),
    }


@pytest.mark.slow
async def test_the_largest_pictures_fit_into_the_default_limits() -> None:
    defaults = DecodingSettings()
    limits = terms(max_cpu_s=defaults.max_cpu_s, max_memory_bytes=defaults.max_memory_bytes)
    async with opened(limits, workers=1) as pool:
        for name, data in largest().items():
            assert isinstance(await outcome(pool, data), np.ndarray), name


async def test_a_large_picture_is_handed_over_whole(
    pool: ProcessDecodePool, here: DecodePool
) -> None:
    """Larger than a socket's buffer: sent in parts, to a decoder that reads meanwhile."""
    large = pictures.saved(pictures.noise(2000, 1500), "PNG", compress_level=0)
    assert len(large) > 8 * MIB
    expected = (await decode_one(here, EncodedImage(large))).array
    np.testing.assert_array_equal(await decoded(pool, large), expected)
