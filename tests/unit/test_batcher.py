"""The batcher with a real thread and real event loops, in front of a network whose pace we set."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    NotReady,
    Overloaded,
    WireError,
)
from predictor.inference import batcher as batcher_module
from predictor.inference.batcher import Announcement, Batcher
from predictor.inference.engine import EngineInput, EngineLost, EngineOutOfMemory

AN_HOUR = 3600.0
PATIENCE_S = 20.0
"""How long a test waits for what must happen before it says that it does not."""

Answers: TypeAlias = list[NDArray[np.float32]]


def picture(number: int, *, floats: bool = False, size: int = 2) -> EngineInput:
    """A picture that tells its number, so that an answer can be traced to it."""
    if floats:
        return np.full((3, size, size), number, dtype=np.float32)
    array = np.zeros((size, size, 3), dtype=np.uint8)
    array[0, 0] = list(number.to_bytes(3, "big"))
    return array


def number_in(array: EngineInput) -> int:
    if array.dtype == np.float32:
        return int(array[0, 0, 0])
    return int.from_bytes(bytes(array[0, 0].tolist()), "big")


class Engine:
    """Answers each picture with its number and minus that; stops where `hold` says so.

    Attributes:
        batches: the numbers in each forward, in order, failed ones included.
        poison: numbers that fail any batch they are in.
        fits: most pictures before the device is out of memory.
        nan: numbers that are answered with NaN.
    """

    name = "gated"
    device = "cpu"
    lanes = 1

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.poison: set[int] = set()
        self.nan: set[int] = set()
        self.fits = sys.maxsize
        self.fault: Callable[[list[int]], None] = lambda numbers: None
        self._gate = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)
        self._held = False

    def hold(self) -> None:
        """From now on each forward waits for a `go`."""
        self._held = True

    def go(self) -> None:
        """Let one forward pass."""
        self._gate.release()

    def free(self) -> None:
        self._held = False
        self._gate.release(1000)

    async def entered(self) -> None:
        """Wait for the next held forward to begin."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_S)

    def warm_up(self, batch_sizes: Sequence[int]) -> None: ...

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        numbers = [number_in(item) for item in batch]
        self.batches.append(numbers)
        if self._held:
            self._entered.release()
            assert self._gate.acquire(timeout=PATIENCE_S)
        self.fault(numbers)
        if len(numbers) > self.fits:
            raise EngineOutOfMemory
        if self.poison & set(numbers):
            raise RuntimeError("poison")
        return np.array([[np.nan if n in self.nan else n, -n] for n in numbers], dtype=np.float32)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.free()


@contextlib.asynccontextmanager
async def running(
    engine: Engine, *, max_batch_size: int = 32, max_queue: int = 256, max_wait_s: float = AN_HOUR
) -> AsyncIterator[Batcher]:
    batcher = Batcher(
        engine, max_batch_size=max_batch_size, max_queue=max_queue, max_wait_s=max_wait_s
    )
    batcher.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield batcher
    finally:
        engine.free()
        await batcher.stop()


async def send(
    batcher: Batcher,
    *numbers: int,
    deadline: float | None = None,
    announcement: Announcement | None = None,
    floats: bool = False,
) -> asyncio.Task[Answers]:
    """Start a request; when this returns, its pictures wait in the queue or were refused."""
    arrays = [picture(number, floats=floats) for number in numbers]
    request: Coroutine[Any, Any, Answers] = batcher.submit_many(
        arrays, deadline=deadline, announcement=announcement
    )
    task = asyncio.create_task(request)
    await asyncio.sleep(0)
    return task


async def occupy(batcher: Batcher, engine: Engine) -> asyncio.Task[Answers]:
    """Put picture 0 on the device and keep it there until `go`."""
    engine.hold()
    task = await send(batcher, 0)
    await engine.entered()
    return task


async def numbers_of(task: asyncio.Task[Answers]) -> list[int]:
    answers = await task
    assert all(answer.dtype == np.float32 for answer in answers)
    assert all(answer[1] == -answer[0] for answer in answers)
    return [int(answer[0]) for answer in answers]


async def outcome(task: asyncio.Task[Answers]) -> list[int] | str:
    try:
        return await numbers_of(task)
    except WireError as error:
        return error.code


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


async def test_a_request_waits_for_nothing_when_nothing_is_announced(engine: Engine) -> None:
    async with running(engine, max_wait_s=AN_HOUR) as batcher:
        assert await numbers_of(await send(batcher, 7)) == [7]


async def test_no_pictures_are_no_work(engine: Engine) -> None:
    async with running(engine) as batcher:
        assert await batcher.submit_many([]) == []
    assert engine.batches == []


async def test_announced_pictures_that_never_come_are_waited_for_max_wait_only(
    engine: Engine,
) -> None:
    async with running(engine, max_wait_s=0.01) as batcher:
        with batcher.expect(5):
            assert await numbers_of(await send(batcher, 1)) == [1]


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
        with batcher.expect(1) as announcement:
            gone = await send(batcher, 1)
            gone.cancel()
            await asyncio.wait([gone])
            assert batcher.queue_depth == 0
            task = await send(batcher, 2, announcement=announcement)
            assert await numbers_of(task) == [2]
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
            with batcher.expect(1) as announcement:
                first = await send(batcher, 1)
                second = await send(batcher, 2, announcement=announcement)
            assert [await numbers_of(first), await numbers_of(second)] == [[1], [2]]
    assert engine.batches == [[1, 2]] * 5


# Kinds


async def test_shapes_and_dtypes_share_a_queue_but_not_a_batch(engine: Engine) -> None:
    async with running(engine) as batcher:
        await occupy(batcher, engine)
        large = asyncio.create_task(batcher.submit_many([picture(5, size=3)]))
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


async def test_the_queue_is_bounded_and_a_request_is_admitted_whole_or_not_at_all(
    engine: Engine,
) -> None:
    async with running(engine, max_queue=4) as batcher:
        await occupy(batcher, engine)
        three = await send(batcher, 1, 2, 3)
        assert await outcome(await send(batcher, 4, 5)) == "OVERLOADED"
        assert batcher.queue_depth == 3
        one = await send(batcher, 6)
        assert await outcome(await send(batcher, 7)) == "OVERLOADED"
        engine.free()
        assert [await outcome(three), await outcome(one)] == [[1, 2, 3], [6]]
        assert await outcome(await send(batcher, 8)) == [8]
    assert engine.batches == [[0], [1, 2, 3, 6], [8]]


async def test_a_refused_request_leaves_no_announcement_behind(engine: Engine) -> None:
    async with running(engine, max_queue=1) as batcher:
        await occupy(batcher, engine)
        with pytest.raises(Overloaded), batcher.expect(2) as announcement:
            await (await send(batcher, 1, 2, announcement=announcement))
        last = await send(batcher, 3)
        engine.free()
        assert await outcome(last) == [3]  # an announcement left behind is waited for, an hour


# Deadlines and cancellation


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
        task = asyncio.create_task(batcher.submit_many([picture(1)], deadline=time.monotonic() - 1))
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


async def test_a_cancelled_request_makes_room_at_once(engine: Engine) -> None:
    async with running(engine, max_queue=3) as batcher:
        await occupy(batcher, engine)
        cancelled = await send(batcher, 1, 2)
        neighbour = await send(batcher, 3)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
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
    monkeypatch.setattr(batcher_module, "GROW_AFTER", 3)
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
    batcher = Batcher(engine, max_batch_size=1, max_queue=1, max_wait_s=0)
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
            await batcher.submit_many([picture(4)])
    assert "the device thread ended" in caplog.text


# Lanes and callers


async def test_lanes_run_at_the_same_time_and_share_what_waits(engine: Engine) -> None:
    engine.lanes = 2
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


async def test_one_lane_that_dies_ends_all_of_them(engine: Engine) -> None:
    engine.lanes = 2

    def die(numbers: list[int]) -> None:
        if 1 in numbers:
            raise EngineLost

    engine.fault = die
    async with running(engine) as batcher:
        assert await outcome(await send(batcher, 1)) == "NOT_READY"
        with pytest.raises(NotReady):
            await batcher.submit_many([picture(2)])
        assert not batcher.healthy


async def test_callers_take_turns(engine: Engine) -> None:
    async with running(engine, max_batch_size=4) as batcher:
        await occupy(batcher, engine)
        flood = batcher.submit_many([picture(number) for number in range(1, 20)], caller="flood")
        once = batcher.submit_many([picture(100)], caller="once")
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
