"""Pictures of many callers, one device: coalesce, keep deadlines, isolate what is bad.

One thread owns the engine. It takes whatever is waiting when the device gets free, so batches
grow with load and an idle server answers at once. It waits for more only while a picture that was
announced (`expect`) is still being decoded, and never longer than `max_wait_s`.

What an item's owner does never touches its neighbours: a cancelled or expired item leaves the
queue before it runs, and a batch that fails is halved until the item at fault fails alone, while
each half that succeeds is answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import DeadlineExceeded, InternalError, NotReady, Overloaded, WireError
from predictor.inference.engine import Engine, EngineInput, EngineLost, EngineOutOfMemory

log = logging.getLogger("predictor.batcher")

Logits: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = tuple[str, tuple[int, ...]]

EXPIRED = "the deadline passed before the picture was classified"
STOPPED = "the server is stopping; retry on another replica"
GROW_AFTER: Final = 100
"""Full batches that fit before a larger one is tried again: a failed try costs one forward."""


@dataclass(slots=True, eq=False)
class _Item:
    """One picture on its way. Only its own future knows whether anybody still waits."""

    array: EngineInput
    kind: Kind
    deadline: float | None
    arrived: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Logits]

    def wanted(self, now: float) -> bool:
        return not self.future.done() and (self.deadline is None or now < self.deadline)


_Outcome: TypeAlias = tuple[_Item, Logits | WireError]


@dataclass(slots=True, eq=False)
class Announcement:
    """Attributes: count: pictures that are still on their way to the queue."""

    count: int


@dataclass(slots=True)
class _Queue:
    """What waits, first come first served. Every access holds the condition."""

    items: dict[_Item, None] = field(default_factory=dict)
    expected: int = 0
    stopping: bool = False


@dataclass(slots=True)
class _Room:
    """How many pictures of one kind the device has memory for, as far as is known."""

    size: int
    fitted: int = 0


class Batcher:
    """The queue in front of one engine.

    Args:
        max_batch_size: most pictures in one forward.
        max_queue: most pictures waiting; one more is refused.
        max_wait_s: longest a batch waits for announced pictures.
    """

    def __init__(
        self, engine: Engine, *, max_batch_size: int, max_queue: int, max_wait_s: float
    ) -> None:
        self.engine = engine
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._rooms: dict[Kind, _Room] = {}
        self._queue = _Queue()
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._failed = False

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Refuse new pictures, fail the waiting ones with NotReady, and end the thread.

        What is on the device is still answered.
        """
        self._close()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._failed

    @property
    def queue_depth(self) -> int:
        return len(self._queue.items)

    @contextmanager
    def expect(self, count: int) -> Iterator[Announcement]:
        """Announce pictures that are being decoded: the only thing worth waiting for.

        Hand the announcement to `submit_many`, which withdraws it in the moment the pictures
        arrive: withdrawn before, the device would go without them.
        """
        announcement = Announcement(count)
        with self._condition:
            self._queue.expected += count
        try:
            yield announcement
        finally:
            if announcement.count:
                with self._condition:
                    self._withdraw(announcement)
                    self._condition.notify()

    def _withdraw(self, announcement: Announcement) -> None:
        self._queue.expected -= announcement.count
        announcement.count = 0

    async def submit_many(
        self,
        arrays: Sequence[EngineInput],
        *,
        deadline: float | None = None,
        announcement: Announcement | None = None,
    ) -> list[Logits]:
        """Classify the pictures of one request: all are admitted, or none.

        Args:
            arrays: uint8 (H, W, 3) or float32 (3, H, W) each.
            deadline: `time.monotonic()` after which nobody wants the answer.

        Returns:
            Logits, float32, (K,) each.

        Raises:
            WireError: Overloaded or NotReady when not admitted; else that of the first picture,
                in order, that failed.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        items = [
            _Item(array, (str(array.dtype), array.shape), deadline, now, loop, loop.create_future())
            for array in arrays
        ]
        self._enqueue(items, announcement)
        timer = None
        if deadline is not None:
            timer = loop.call_at(loop.time() + deadline - now, _expire, items)
        try:
            answers = await asyncio.gather(*(item.future for item in items), return_exceptions=True)
        finally:
            if timer is not None:
                timer.cancel()
            self._discard(items)
        for index, answer in enumerate(answers):
            if isinstance(answer, WireError):
                raise answer.at(f"image[{index}]") if len(items) > 1 else answer
        return [item.future.result() for item in items]

    def _enqueue(self, items: list[_Item], announcement: Announcement | None) -> None:
        with self._condition:
            if self._queue.stopping or self._failed:
                raise NotReady(STOPPED)
            if len(self._queue.items) + len(items) > self._max_queue:
                raise Overloaded("the queue in front of the model is full; retry later")
            self._queue.items.update(dict.fromkeys(items))
            if announcement is not None:
                self._withdraw(announcement)
            self._condition.notify()

    def _discard(self, items: list[_Item]) -> None:
        """Take what is still queued of a request that ended early out of the queue."""
        with self._condition:
            for item in items:
                self._queue.items.pop(item, None)

    def _close(self, on_device: Sequence[_Item] = ()) -> None:
        """Admit nothing more; fail what waits, and what was lost on the device."""
        with self._condition:
            self._queue.stopping = True
            lost = [*on_device, *self._queue.items]
            self._queue.items.clear()
            self._condition.notify()
        _deliver([(item, NotReady(STOPPED)) for item in lost])

    # The device thread

    def _run(self) -> None:
        batch: list[_Item] | None = None
        try:
            while (batch := self._next_batch()) is not None:
                self._classify(batch)
        except BaseException:
            self._failed = True
            log.critical("the device thread ended", exc_info=True)
        finally:
            self._close(batch or ())

    def _next_batch(self) -> list[_Item] | None:
        """Wait for pictures and take those of one kind; None when stopping."""
        queue = self._queue
        with self._condition:
            while not queue.items and not queue.stopping:
                self._condition.wait()
            if queue.stopping:
                return None
            oldest = next(iter(queue.items))
            limit = self._room(oldest.kind).size
            while queue.expected > 0 and len(queue.items) < limit and not queue.stopping:
                remaining = oldest.arrived + self._max_wait_s - time.monotonic()
                if remaining <= 0:
                    break
                self._condition.wait(remaining)
            return self._take(oldest.kind, limit)

    def _take(self, kind: Kind, limit: int) -> list[_Item]:
        same = (item for item in self._queue.items if item.kind == kind)
        taken = list(islice(same, limit))
        for item in taken:
            del self._queue.items[item]
        return taken

    def _room(self, kind: Kind) -> _Room:
        return self._rooms.setdefault(kind, _Room(self._max_batch_size))

    def _classify(self, batch: list[_Item]) -> None:
        """Run a batch without those whom nobody waits for; halve it until what is at fault stands
        alone.
        """
        groups = [batch]
        while groups:
            now = time.monotonic()
            group = [item for item in groups.pop() if item.wanted(now)]
            outcomes = self._forward(group) if group else []
            if outcomes is None:
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
            else:
                _deliver(outcomes)

    def _forward(self, group: list[_Item]) -> list[_Outcome] | None:
        """Run pictures of one kind; None where they failed together and are to be halved.

        Halving is left to the caller: an exception that is being handled keeps what the failed
        forward had on the device.
        """
        try:
            batch: Any = np.stack([item.array for item in group])  # of the kind's one dtype
            outcomes = _outcomes(group, self.engine.forward(batch))
        except EngineLost:
            raise
        except EngineOutOfMemory:
            return self._out_of_memory(group)
        except Exception:
            if len(group) > 1:
                return None
            log.exception("a picture could not be classified")
            return [(group[0], InternalError())]
        self._fitted(group)
        return outcomes

    def _out_of_memory(self, group: list[_Item]) -> list[_Outcome] | None:
        smaller = max(1, len(group) // 2)
        self._rooms[group[0].kind] = _Room(smaller)
        log.warning("out of device memory", extra={"batch_size_from_now": smaller})
        if len(group) > 1:
            return None
        return [(group[0], Overloaded("the device is out of memory; retry later"))]

    def _fitted(self, group: list[_Item]) -> None:
        """Memory may have been short for a moment only: try more again, but seldom."""
        room = self._room(group[0].kind)
        room.fitted += len(group) == room.size
        if room.fitted == GROW_AFTER:
            self._rooms[group[0].kind] = _Room(min(2 * room.size, self._max_batch_size))


def _outcomes(group: list[_Item], logits: Logits) -> list[_Outcome]:
    if logits.ndim != 2 or len(logits) != len(group):
        raise ValueError(f"engine answered {logits.shape} for {len(group)} pictures")
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(logits), axis=1)
    if not finite.all():
        log.error("the network answered NaN or infinity", extra={"count": int((~finite).sum())})
    return [
        (item, row if good else InternalError())
        for item, row, good in zip(group, logits, finite, strict=True)
    ]


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    """Hand answers over to the event loops they belong to, one wake-up for each."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, group)
        except RuntimeError:  # the loop is closed: nobody is left to answer
            log.warning("answers without a loop", extra={"count": len(group)})


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for item, outcome in outcomes:
        if item.future.done():
            continue
        if isinstance(outcome, WireError):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)


def _expire(items: Sequence[_Item]) -> None:
    _settle([(item, DeadlineExceeded(EXPIRED)) for item in items])
