"""Who goes into a batch, and when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import time
from typing import Any

import pytest

from predictor.errors import InvalidImage, NotReady
from predictor.inference.batcher import Batcher
from predictor.inference.delivery import answers_of
from predictor.inference.engine import EngineLost
from predictor.inference.observer import Observer
from tests.unit.gated_engine import (
    AN_HOUR,
    Answers,
    Engine,
    numbers_of,
    occupy,
    outcome,
    picture,
    running,
    send,
    submit,
)

# Coalescing and waiting


async def test_what_arrives_while_the_device_is_busy_becomes_the_next_batch(
    engine: Engine,
) -> None:
    async with running(engine, max_batch_size=4) as batcher:
        tasks = [await occupy(batcher, engine)]
        tasks += [await send(batcher, n) for n in range(1, 8)]
        assert batcher.queue_depth == 7
        engine.free()
        assert [await numbers_of(task) for task in tasks] == [[n] for n in range(8)]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


async def test_one_thread_owns_the_device_and_it_is_not_the_event_loops(engine: Engine) -> None:
    threads: set[int] = set()
    engine.fault = lambda numbers: threads.add(threading.get_ident())
    async with running(engine, max_batch_size=2) as batcher:
        await asyncio.gather(*[await send(batcher, n, n + 1) for n in range(0, 40, 2)])
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(("gpu", "lower"), [(None, True), ("GPU-1", False)])
async def test_a_lane_that_computes_gives_way_and_one_that_drives_a_gpu_does_not(
    gpu: str | None, lower: bool, engine: Engine
) -> None:
    seen: set[int] = set()
    engine.gpu = gpu
    engine.fault = lambda numbers: seen.add(os.getpriority(os.PRIO_PROCESS, 0))
    async with running(engine) as batcher:
        await (await send(batcher, 1))
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen == {min(19, usual + 10) if lower else usual}


async def test_a_request_waits_for_nothing_when_nothing_is_announced(engine: Engine) -> None:
    async with running(engine, max_wait_s=AN_HOUR) as batcher:
        assert await numbers_of(await send(batcher, 7)) == [7]


async def test_no_pictures_are_no_work(engine: Engine) -> None:
    async with running(engine) as batcher:
        assert await submit(batcher, []) == []
    assert engine.batches == []


async def test_announced_pictures_that_never_come_are_waited_for_max_wait_only(
    engine: Engine,
) -> None:
    async with running(engine, max_wait_s=0.01) as batcher:
        with batcher.expect(5):
            assert await numbers_of(await send(batcher, 1)) == [1]


@pytest.mark.parametrize("costs", [(), (AN_HOUR,), (AN_HOUR, 2 * AN_HOUR)])
async def test_where_a_fuller_batch_saves_nothing_nobody_waits(
    costs: tuple[float, ...], engine: Engine
) -> None:
    """As in a lane on one core; or before it is known."""
    async with running(engine, costs=costs) as batcher:
        with batcher.expect(1):
            assert await numbers_of(await send(batcher, 1)) == [1]


async def test_a_batch_leaves_in_time_for_the_first_deadline_in_it(engine: Engine) -> None:
    forward_s = 1000.0
    async with running(engine, costs=(forward_s,) * 3) as batcher:
        with batcher.expect(1):
            unhurried = await send(batcher, 1)
            deadline = time.monotonic() + forward_s + 0.05
            assert await submit(batcher, [picture(2)], deadline=deadline)
            assert await numbers_of(unhurried) == [1]
    assert engine.batches == [[1, 2]]


async def test_a_full_batch_waits_for_nobody(engine: Engine) -> None:
    async with running(engine, max_batch_size=2) as batcher:
        with batcher.expect(5):
            assert await numbers_of(await send(batcher, 1, 2)) == [1, 2]


async def test_a_batch_goes_when_the_announced_picture_turns_out_to_be_bad(
    engine: Engine,
) -> None:
    async with running(engine) as batcher:
        with contextlib.suppress(InvalidImage), batcher.expect(1):
            task = await send(batcher, 1)
            raise InvalidImage("damaged")
        assert await numbers_of(task) == [1]


async def test_the_device_waits_on_when_whom_it_waited_with_is_gone(engine: Engine) -> None:
    async with running(engine) as batcher:
        with batcher.expect(1) as [expected]:
            gone = await send(batcher, 1)
            gone.cancel()
            await asyncio.wait([gone])
            assert batcher.queue_depth == 0
            batcher.put(expected, picture(2))
            assert (await expected.future)[0] == 2
    assert engine.batches == [[2]]


class Yielding(threading.Condition):
    """Gives the other thread its turn whenever it is let go of: the worst of schedulers."""

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        time.sleep(0.002)


async def test_announced_pictures_are_in_the_batch_that_waited_for_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the announcement withdrawn a moment before they arrive, the device would start."""
    monkeypatch.setattr(threading, "Condition", Yielding)
    async with running(engine) as batcher:
        for _ in range(5):
            with batcher.expect(1) as [expected]:
                first = await send(batcher, 1)
                batcher.put(expected, picture(2))
                assert [await numbers_of(first), (await expected.future)[0]] == [[1], 2]
    assert engine.batches == [[1, 2]] * 5


# Kinds


async def test_shapes_and_dtypes_share_a_queue_but_not_a_batch(engine: Engine) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        large = asyncio.create_task(submit(batcher, [picture(5, size=3)]))
        tasks = [
            await send(batcher, 1),
            await send(batcher, 2, floats=True),
            await send(batcher, 3),
            await send(batcher, 4, floats=True),
        ]
        engine.free()
        answers = [await numbers_of(task) for task in [*tasks, large]]
        assert answers == [[1], [2], [3], [4], [5]]
    assert engine.batches == [[0], [5], [1, 3], [2, 4]]


async def test_a_rare_kind_is_not_starved_by_a_common_one(engine: Engine) -> None:
    async with running(engine, max_batch_size=2) as batcher:
        await occupy(batcher, engine)
        common = [await send(batcher, n) for n in range(1, 3)]
        rare = await send(batcher, 100, floats=True)
        common += [await send(batcher, n) for n in range(3, 9)]
        engine.free()
        await asyncio.gather(rare, *common)
    assert engine.batches == [[0], [1, 2], [100], [3, 4], [5, 6], [7, 8]]


# A full queue


async def test_a_picture_that_is_not_wanted_any_more_is_not_queued(engine: Engine) -> None:
    async with running(engine) as batcher:
        with batcher.expect(1) as [expected]:
            expected.future.cancel()
            batcher.put(expected, picture(1))
            assert batcher.queue_depth == 0
            assert await numbers_of(await send(batcher, 2)) == [2]  # nobody is waited for
    assert engine.batches == [[2]]


async def test_a_batch_goes_when_an_expected_picture_fails(engine: Engine) -> None:
    async with running(engine) as batcher:
        with batcher.expect(2) as [bad, good]:
            batcher.put(good, picture(1))
            batcher.fail(bad, InvalidImage("damaged"))
            assert (await good.future)[0] == 1
            with pytest.raises(InvalidImage, match=r"image\[0\]: damaged"):
                await answers_of([bad, good])


# Lanes and callers


async def test_lanes_run_at_the_same_time_and_share_what_waits(engine: Engine) -> None:
    engine.lanes = engine.at_once = 2
    async with running(engine) as batcher:
        on_device = [await occupy(batcher, engine)]
        engine.hold()
        on_device.append(await send(batcher, 1))
        await engine.entered()
        waiting = [await send(batcher, number) for number in range(2, 8)]
        engine.free()
        for number, task in enumerate([*on_device, *waiting]):
            assert await numbers_of(task) == [number]
    assert sorted(engine.batches[:2]) == [[0], [1]]
    # Neither lane takes it all: half of six, half of the rest, or what came back to an idle lane.
    assert max(map(len, engine.batches)) == 3


async def test_what_one_lane_leaves_another_takes_at_once(engine: Engine) -> None:
    """The lane that waited for the announced picture is not the one that its arrival wakes."""
    engine.lanes = engine.at_once = 2
    engine.hold()
    async with running(engine) as batcher:
        with batcher.expect(1) as [expected]:
            first = await send(batcher, 1)
            # One lane sees it and waits for more. Were it slower than this, nothing would be shown.
            await asyncio.sleep(0.05)
            batcher.put(expected, picture(2))
            await engine.entered()
            await engine.entered()  # while the first forward still runs
            engine.free()
            assert [await numbers_of(first), (await expected.future)[0]] == [[1], 2]


async def test_where_lanes_share_a_device_only_a_full_batch_goes_ahead(engine: Engine) -> None:
    engine.lanes = 2
    async with running(engine, max_batch_size=4) as batcher:
        first = await occupy(batcher, engine)
        full = [await send(batcher, 1, 2), await send(batcher, 3, 4)]
        await engine.entered()  # while the first is on the device
        less = [await send(batcher, number) for number in (5, 6, 7)]
        await asyncio.sleep(0.05)  # a lane that goes too soon would have gone
        assert engine.batches == [[0], [1, 2, 3, 4]]
        engine.free()
        assert [await numbers_of(task) for task in (first, *full)] == [[0], [1, 2], [3, 4]]
        assert [await numbers_of(task) for task in less] == [[5], [6], [7]]
    assert engine.batches[2] == [5, 6, 7]  # none of them shared out


async def test_the_wait_for_another_lanes_forward_is_no_cost_of_ones_own(engine: Engine) -> None:
    engine.lanes = 2
    device = threading.Lock()
    forwards: list[tuple[float, float]] = []

    class Clock(Observer):
        def forwarded(self, pictures: object, began: float, ended: float) -> None:
            forwards.append((began, ended))

    def compute(numbers: list[int]) -> None:
        with device:
            time.sleep(0.05)

    engine.fault = compute
    async with running(engine, max_batch_size=1) as batcher:
        batcher.observer = Clock()
        await asyncio.gather(*[await send(batcher, number) for number in range(6)])
    forwards.sort()
    assert len(forwards) == 6
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(forwards))


async def test_one_lane_that_dies_ends_all_of_them(engine: Engine) -> None:
    engine.lanes = engine.at_once = 2

    def die(numbers: list[int]) -> None:
        if 1 in numbers:
            raise EngineLost

    engine.fault = die
    async with running(engine) as batcher:
        assert await outcome(await send(batcher, 1)) == "NOT_READY"
        with pytest.raises(NotReady):
            await submit(batcher, [picture(2)])
        assert not batcher.healthy


async def test_callers_take_turns(engine: Engine) -> None:
    async with running(engine, max_batch_size=4) as batcher:
        await occupy(batcher, engine)
        flood = submit(batcher, [picture(number) for number in range(1, 20)], caller="flood")
        once = submit(batcher, [picture(100)], caller="once")
        tasks = [asyncio.ensure_future(request) for request in (flood, once)]
        await asyncio.sleep(0)
        engine.free()
        await asyncio.gather(*tasks)
    assert engine.batches[1] == [1, 100, 2, 3]


async def test_a_device_that_is_given_up_leaves_nobody_waiting(engine: Engine) -> None:
    async with running(engine) as batcher:
        on_device = await occupy(batcher, engine)
        waiting = await send(batcher, 1)
        assert batcher.longest_forward_s > 0
        batcher.abandon()
        assert [await outcome(on_device), await outcome(waiting)] == ["NOT_READY", "NOT_READY"]
        assert not batcher.healthy


# Several event loops


async def test_answers_go_to_the_event_loop_that_asked(engine: Engine) -> None:
    async def elsewhere(batcher: Batcher, base: int) -> list[list[int]]:
        tasks = [await send(batcher, base + n) for n in range(50)]
        return [await numbers_of(task) for task in tasks]

    async with running(engine, max_batch_size=8) as batcher:
        results = await asyncio.gather(
            *(
                asyncio.to_thread(lambda b: asyncio.run(elsewhere(batcher, b)), base)
                for base in (1000, 2000, 3000)
            ),
            elsewhere(batcher, 4000),
        )
    for base, result in zip((1000, 2000, 3000, 4000), results, strict=True):
        assert result == [[base + n] for n in range(50)]


async def test_a_loop_that_was_closed_costs_its_neighbours_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # a pending task is what we want here

        def ask_and_leave() -> asyncio.Task[Answers]:
            task = loop.run_until_complete(send(batcher, 1))
            loop.close()
            return task

        abandoned = await asyncio.to_thread(ask_and_leave)
        neighbour = await send(batcher, 2)
        engine.free()
        assert await outcome(neighbour) == [2]
        assert engine.batches == [[0], [1, 2]]
        assert "answers without a loop" in caplog.text
        assert batcher.healthy
        del abandoned
