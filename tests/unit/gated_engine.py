"""A batcher in front of a network whose pace the test sets; real threads, real event loops."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import WireError
from predictor.inference.batcher import Batcher
from predictor.inference.delivery import answers_of
from predictor.inference.engine import EngineInput, EngineOutOfMemory
from predictor.inference.timeline import Timeline
from tests.fake_engine import FakeEngine

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


class Engine(FakeEngine):
    """Answers each picture with its number and minus that; stops where `hold` says so.

    Attributes:
        batches: the numbers in each forward, in order, failed ones included.
        poison: numbers that fail any batch they are in.
        fits: most pictures before the device is out of memory.
        nan: numbers that are answered with NaN.
    """

    name = "gated"

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


@contextlib.asynccontextmanager
async def running(
    engine: Engine,
    *,
    max_batch_size: int = 32,
    max_wait_s: float = AN_HOUR,
    costs: Sequence[float] = (AN_HOUR, AN_HOUR),
) -> AsyncIterator[Batcher]:
    """Args: costs: seconds of a forward of 1, 2, ... pictures; by default any wait is worth it."""
    batcher = Batcher(engine, max_batch_size=max_batch_size, max_wait_s=max_wait_s)
    for size, seconds in enumerate(costs, start=1):
        batcher.cost.observe(size, seconds)
    batcher.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield batcher
    finally:
        engine.free()
        await batcher.stop()


async def submit(
    batcher: Batcher,
    arrays: Sequence[EngineInput],
    *,
    caller: str = "",
    deadline: float | None = None,
    timeline: Timeline | None = None,
) -> Answers:
    """A request whose pictures are all decoded at once."""
    expected = batcher.expect(len(arrays), caller=caller, deadline=deadline, timeline=timeline)
    with expected as items:
        for item, array in zip(items, arrays, strict=True):
            batcher.put(item, array)
        return await answers_of(items)


async def send(
    batcher: Batcher,
    *numbers: int,
    deadline: float | None = None,
    floats: bool = False,
) -> asyncio.Task[Answers]:
    """Start a request; when this returns, its pictures wait in the queue or were refused."""
    arrays = [picture(number, floats=floats) for number in numbers]
    task = asyncio.create_task(submit(batcher, arrays, deadline=deadline))
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
