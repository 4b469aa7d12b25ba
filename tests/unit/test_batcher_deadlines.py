"""Requests whose caller has given up, or soon will."""

from __future__ import annotations

import asyncio
import time

import pytest

from predictor.errors import DeadlineExceeded
from tests.unit.gated_engine import Engine, occupy, outcome, picture, running, send, submit


async def test_an_expired_request_is_answered_at_once_and_never_reaches_the_device(
    engine: Engine,
) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        expiring = await send(batcher, 1, 2, deadline=time.monotonic() + 0.01)
        neighbour = await send(batcher, 3)
        with pytest.raises(DeadlineExceeded, match=r"^image\[0\]: the deadline passed"):
            await expiring  # while the device is still busy
        assert batcher.queue_depth == 1
        engine.free()
        assert await outcome(neighbour) == [3]
    assert engine.batches == [[0], [3]]


async def test_a_past_deadline_is_honoured_before_the_loop_finds_time_for_it(
    engine: Engine,
) -> None:
    async with running(engine) as batcher:
        task = asyncio.create_task(submit(batcher, [picture(1)], deadline=time.monotonic() - 1))
        assert await outcome(task) == "DEADLINE_EXCEEDED"
    assert engine.batches == []


async def test_a_deadline_that_passes_on_the_device_is_the_callers_alone(engine: Engine) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        expiring = await send(batcher, 1, deadline=time.monotonic() + 0.05)
        neighbour = await send(batcher, 2)
        engine.go()
        await engine.entered()  # with both, or without the first where this machine is slow
        assert await outcome(expiring) == "DEADLINE_EXCEEDED"
        engine.free()
        assert await outcome(neighbour) == [2]


async def test_a_cancelled_request_leaves_the_queue_at_once(engine: Engine) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        cancelled = await send(batcher, 1, 2)
        neighbour = await send(batcher, 3)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        assert batcher.queue_depth == 1
        late = await send(batcher, 4, 5)
        engine.free()
        assert [await outcome(neighbour), await outcome(late)] == [[3], [4, 5]]
    assert engine.batches == [[0], [3, 4, 5]]


async def test_cancelled_on_the_device_changes_nothing_for_the_others(engine: Engine) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        cancelled, neighbour = await send(batcher, 1), await send(batcher, 2)
        engine.go()
        await engine.entered()
        cancelled.cancel()
        engine.free()
        assert await outcome(neighbour) == [2]
        assert cancelled.cancelled()


async def test_who_gives_up_while_a_bad_batch_is_halved_is_not_run_again(engine: Engine) -> None:
    engine.poison = {1}
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        tasks = [await send(batcher, n) for n in range(1, 5)]
        engine.go()
        await engine.entered()
        tasks[3].cancel()
        await asyncio.wait([tasks[3]])
        engine.free()
        assert [await outcome(task) for task in tasks[:3]] == ["INTERNAL", [2], [3]]
    assert engine.batches == [[0], [1, 2, 3, 4], [1, 2], [1], [2], [3]]
