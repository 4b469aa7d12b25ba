"""Callers in a closed loop, or requests at a rate: written once for every protocol.

Latency counts from the moment a request was due, not from when the client got round to it: a
server that stalls is charged for everybody who had to wait (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from typing import Final, Protocol

from hack.load.samples import BROKEN, Caller, Sample, Window

_PAUSE_S: Final = 0.1
"""Before a caller tries again whose connection failed: a server that is gone gets no flood."""
_POLL_S: Final = 0.02
MOST_WARM_UP_S: Final = 15.0


class Loop(Protocol):
    """Load that goes on from `start` to `stop`, looked at in windows."""

    def start(self) -> None: ...

    async def warm_up(self, seconds: float) -> None:
        """Let that much pass and forget it."""
        ...

    async def window(self, seconds: float) -> Window: ...

    async def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        ...


class ClosedLoop:
    """Callers who each send the next request when the last is answered.

    A window has the requests that ended in it: in the long run as many as began.

    Args:
        obeys: a caller that is told when to come back (Retry-After) waits until then. Else it asks
            again at once, as no client should and some do.
    """

    def __init__(self, caller: Caller, callers: int, *, obeys: bool = False) -> None:
        self._caller = caller
        self._callers = callers
        self._obeys = obeys
        self._going = True
        self._ended: list[Sample] = []
        self._waiting = callers
        self._all_answered = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._pauses: set[asyncio.Future[None]] = set()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]

    async def warm_up(self, seconds: float) -> None:
        """And until each caller had an answer, at most 15 s more: the first all came at once."""
        await asyncio.sleep(seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOST_WARM_UP_S):
                await self._all_answered.wait()
        self._ended = []

    async def window(self, seconds: float) -> Window:
        self._ended = []
        began = time.monotonic()
        await asyncio.sleep(seconds)
        taken = time.monotonic() - began
        for task in self._tasks:
            if task.done():
                task.result()
        ended, self._ended = self._ended, []
        return Window(taken, ended)

    async def stop(self) -> None:
        self._going = False
        for pause in self._pauses:
            pause.cancel()
        await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        waiting, came_back = True, False
        while self._going:
            began = time.monotonic()
            answer = await self._caller.ask()
            seconds = time.monotonic() - began
            self._ended.append(Sample(answer.code, seconds, answer.retry_after_s, came_back))
            came_back = self._obeys and answer.retry_after_s is not None
            if waiting:
                waiting = False
                self._waiting -= 1
                if not self._waiting:
                    self._all_answered.set()
            if answer.code == BROKEN:
                await self._pause(_PAUSE_S)
            elif self._obeys and answer.retry_after_s is not None:
                await self._pause(answer.retry_after_s)

    async def _pause(self, seconds: float) -> None:
        if not self._going:
            return
        pause = asyncio.ensure_future(asyncio.sleep(seconds))
        self._pauses.add(pause)
        await asyncio.wait([pause])
        self._pauses.discard(pause)


class OpenLoop:
    """Requests at a rate, whatever becomes of them.

    A window has the requests that were due in it, and ends when the last of them is answered.

    Args:
        poisson: at random times, as from many strangers, instead of evenly.
    """

    def __init__(self, caller: Caller, per_second: float, *, poisson: bool = False) -> None:
        self._caller = caller
        self._per_second = per_second
        self._poisson = poisson
        self._under_way: dict[asyncio.Task[None], float] = {}  # and when each was due
        # When it was due, and the fields of its Sample: the garbage collector, which would stop
        # this process for tenths of a second, passes over plain tuples.
        self._ended: list[tuple[float, str, float, float | None]] = []
        self._late_s = 0.0
        self._last_due = 0.0
        self._edge = 0.0
        self._pacing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._edge = self._last_due = time.monotonic()
        self._pacing = asyncio.create_task(self._pace(self._edge))

    async def warm_up(self, seconds: float) -> None:
        await self.window(seconds)

    async def window(self, seconds: float) -> Window:
        # From where the last one ended, so that no request falls between two.
        self._edge += seconds
        while self._last_due < self._edge:
            if self._pacing is not None and self._pacing.done():
                self._pacing.result()
                break
            await asyncio.sleep(_POLL_S)
        await self._answered([task for task, due in self._under_way.items() if due < self._edge])
        ended = self._ended
        self._ended = [sample for sample in ended if sample[0] >= self._edge]
        samples = [
            Sample(code, seconds, retry_after_s)
            for due, code, seconds, retry_after_s in ended
            if due < self._edge
        ]
        late, self._late_s = self._late_s, 0.0
        return Window(seconds, samples, late)

    async def stop(self) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.gather(self._pacing, return_exceptions=True)
        await self._answered(list(self._under_way))

    async def _answered(self, tasks: list[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    async def _pace(self, began: float) -> None:
        for due in self._times(began):
            # One turn of the event loop even when late: answers must be read meanwhile.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._late_s = max(self._late_s, time.monotonic() - due)
            self._last_due = due
            task = asyncio.create_task(self._ask(due))
            self._under_way[task] = due
            task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        """Of a request that ended only figures are kept; one that failed is shown to `window`."""
        if task.cancelled() or task.exception() is None:
            del self._under_way[task]

    def _times(self, began: float) -> Iterator[float]:
        strangers = random.Random(0)  # noqa: S311  # the same load in each run, no secret
        due, number = began, 0
        while True:
            yield due
            number += 1
            if self._poisson:
                due += strangers.expovariate(self._per_second)
            else:
                due = began + number / self._per_second

    async def _ask(self, due: float) -> None:
        answer = await self._caller.ask()
        seconds = time.monotonic() - due
        self._ended.append((due, answer.code, seconds, answer.retry_after_s))
