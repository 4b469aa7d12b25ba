"""Pictures, batches and devices that fail: what that costs, and whom."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predictor.errors import InternalError, NotReady
from predictor.inference import rooms
from predictor.inference.batcher import Batcher
from predictor.inference.engine import EngineInput, EngineLost, EngineOutOfMemory
from tests.unit.gated_engine import (
    Engine,
    numbers_of,
    occupy,
    outcome,
    picture,
    running,
    send,
    submit,
)

# Failing pictures


@pytest.mark.parametrize(
    "poison", [{1}, {32}, {17}, {1, 32}, {8, 9}, set(range(1, 33))], ids=lambda p: f"{len(p)}"
)
async def test_poison_fails_alone(engine: Engine, poison: set[int]) -> None:
    engine.poison = poison
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        tasks = [await send(batcher, n) for n in range(1, 33)]
        engine.free()
        for number, task in enumerate(tasks, start=1):
            assert await outcome(task) == ("INTERNAL" if number in poison else [number])
        assert batcher.healthy
        assert await outcome(await send(batcher, 99)) == [99]
    assert len(engine.batches) - 2 <= min(63, 1 + 10 * len(poison))


async def test_a_good_half_is_answered_before_the_bad_one_is_searched(engine: Engine) -> None:
    engine.poison = {4}
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        tasks = [await send(batcher, n) for n in range(1, 5)]
        for _ in range(3):  # 0, then all four, then the good half
            engine.go()
            await engine.entered()
        assert [await outcome(task) for task in tasks[:2]] == [[1], [2]]
        assert not tasks[3].done()
        engine.free()
        assert [await outcome(task) for task in tasks[2:]] == [[3], "INTERNAL"]


async def test_the_first_failing_picture_of_a_request_is_named(engine: Engine) -> None:
    engine.poison = {12, 13}
    async with running(engine) as batcher:
        with pytest.raises(InternalError, match=r"^image\[2\]: internal error"):
            await (await send(batcher, 10, 11, 12, 13))
        with pytest.raises(InternalError, match=r"^internal error"):
            await (await send(batcher, 12))


async def test_nan_fails_alone(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.nan = {2}
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        tasks = [await send(batcher, n) for n in range(1, 4)]
        engine.free()
        assert [await outcome(task) for task in tasks] == [[1], "INTERNAL", [3]]
    assert "NaN" in caplog.text
    assert engine.batches == [[0], [1, 2, 3]]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 2), np.float32),
        np.zeros((9, 2), np.float32),
        np.zeros(2, np.float32),
        np.full((2, 2), "a", dtype=object),
        None,
    ],
    ids=["too few", "too many", "no rows", "no numbers", "nothing"],
)
async def test_an_engine_that_answers_nonsense_is_not_believed(wrong: Any) -> None:
    class Wrong(Engine):
        def forward(self, batch: EngineInput) -> NDArray[np.float32]:
            right = super().forward(batch)
            return wrong if len(batch) == 2 else right

    wrong_engine = Wrong()
    async with running(wrong_engine) as batcher:
        task = await send(batcher, 1, 2)
        assert await outcome(task) == [1, 2]  # each alone, as it is right there
        assert batcher.healthy
    assert wrong_engine.batches == [[1, 2], [1], [2]]


# Device memory


async def test_out_of_memory_halves_the_batch_and_the_next_ones(engine: Engine) -> None:
    engine.fits = 5
    async with running(engine, max_batch_size=16) as batcher:
        for _ in range(2):
            await numbers_of(await send(batcher, *range(1, 17)))
    sizes = [len(batch) for batch in engine.batches]
    assert sizes == [16, 8, 4, 4, 8, 4, 4, 4, 4, 4, 4]


async def test_out_of_memory_lowers_the_batches_of_its_kind_only(engine: Engine) -> None:
    engine.fits = 2
    async with running(engine, max_batch_size=4) as batcher:
        await numbers_of(await send(batcher, 1, 2, 3, 4))
        engine.fits = 4
        engine.batches.clear()
        await numbers_of(await send(batcher, 1, 2, 3, 4, floats=True))
        await numbers_of(await send(batcher, 1, 2, 3, 4))
    assert engine.batches == [[1, 2, 3, 4], [1, 2], [3, 4]]


async def test_no_memory_for_a_single_picture_is_overload(engine: Engine) -> None:
    engine.fits = 0
    async with running(engine) as batcher:
        assert await outcome(await send(batcher, 1)) == "OVERLOADED"
        assert await outcome(await send(batcher, 1, 2)) == "OVERLOADED"
        engine.fits = 1
        assert await outcome(await send(batcher, 3, 4)) == [3, 4]
        assert batcher.healthy


async def test_batches_grow_again_after_memory_was_short(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "GROW_AFTER", 3)
    engine.fits = 1
    async with running(engine, max_batch_size=4) as batcher:
        await numbers_of(await send(batcher, 1, 2, 3, 4))
        engine.fits = 100
        for _ in range(6):
            await numbers_of(await send(batcher, *range(1, 9)))
    sizes = [len(batch) for batch in engine.batches]
    assert sizes[:3] == [4, 2, 1]
    assert sizes[-3:] == [4, 4, 4]  # and never above max_batch_size


@pytest.mark.parametrize("error", [EngineOutOfMemory, RuntimeError])
async def test_what_a_failed_batch_held_is_given_back_before_its_halves_run(
    engine: Engine, error: type[Exception]
) -> None:
    """A traceback keeps the frames of the failed forward, and their tensors, alive."""
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def fault(numbers: list[int]) -> None:
        activations = np.zeros(10)
        alive.extend(ref() is not None for ref in held)
        if len(numbers) > 1:
            held.append(weakref.ref(activations))
            raise error

    engine.fault = fault
    async with running(engine) as batcher:
        assert await outcome(await send(batcher, 1, 2)) == [1, 2]
    assert alive == [False, False]


# The end


async def test_stop_answers_what_is_on_the_device_and_refuses_the_rest(engine: Engine) -> None:
    async with running(engine) as batcher:
        on_device = await occupy(batcher, engine)
        waiting = await send(batcher, 1, 2)
        stopping = asyncio.create_task(batcher.stop())
        assert await outcome(waiting) == "NOT_READY"  # at once: the device is still held
        assert await outcome(await send(batcher, 3)) == "NOT_READY"
        engine.free()
        await stopping
        assert await outcome(on_device) == [0]
        assert not batcher.healthy
        await batcher.stop()
    assert engine.batches == [[0]]


async def test_stop_does_not_wait_for_announced_pictures(engine: Engine) -> None:
    async with running(engine) as batcher:
        with batcher.expect(1):
            waiting = await send(batcher, 1)
            await batcher.stop()
            assert await outcome(waiting) == "NOT_READY"


async def test_a_batcher_that_never_started_still_answers_when_stopped(engine: Engine) -> None:
    batcher = Batcher(engine, max_batch_size=1, max_wait_s=0)
    assert not batcher.healthy
    task = await send(batcher, 1)
    await batcher.stop()
    assert await outcome(task) == "NOT_READY"


@pytest.mark.parametrize("error", [SystemExit, EngineLost])
async def test_a_dead_device_thread_leaves_nobody_waiting(
    engine: Engine, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def die(numbers: list[int]) -> None:
        if 1 in numbers:
            raise error

    engine.fault = die
    async with running(engine, max_batch_size=2) as batcher:
        answered = await occupy(batcher, engine)
        on_device = [await send(batcher, 1), await send(batcher, 2)]
        waiting = await send(batcher, 3)
        engine.free()
        assert await outcome(answered) == [0]
        for task in [*on_device, waiting]:
            assert await outcome(task) == "NOT_READY"
        assert not batcher.healthy
        with pytest.raises(NotReady):
            await submit(batcher, [picture(4)])
    assert "the device thread ended" in caplog.text
