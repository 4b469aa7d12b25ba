"""Pictures of many callers, one device: coalesce, keep deadlines, isolate what is bad.

One thread owns the engine. It takes whatever is waiting when the device gets free, so batches
grow with load and an idle server answers at once. It waits for more only while a picture that was
announced (`expect`) is still being decoded, and never longer than `max_wait_s`.

What an item's owner does never touches its neighbours: a cancelled or expired item leaves the
queue before it runs, and a batch that fails is bisected until the item at fault fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import DeadlineExceeded, InternalError, NotReady, Overloaded, WireError
from predictor.inference.engine import Engine, EngineInput, EngineOutOfMemory

log = logging.getLogger("predictor.batcher")

Logits: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = tuple[str, tuple[int, ...]]

EXPIRED = "the deadline passed before the picture was classified"
STOPPED = "the server is stopping; retry on another replica"


@dataclass(slots=True, eq=False)
class _Item:
    """One picture on its way. Only its own future knows whether anybody still waits."""

    array: EngineInput
    kind: Kind
    deadline: float | None
    arrived: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Logits]
    timer: asyncio.TimerHandle | None = None


_Outcome: TypeAlias = tuple[_Item, Logits | WireError]


@dataclass(slots=True)
class _Queue:
    """What waits, first come first served. Every access holds the condition."""

    items: deque[_Item] = field(default_factory=deque)
    expected: int = 0
    stopping: bool = False


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
        self._fits: dict[Kind, int] = {}
        self._queue = _Queue()
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._failed = False

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Refuse new pictures, fail the waiting ones with NotReady, and end the thread."""
        with self._condition:
            self._queue.stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._failed

    @property
    def queue_depth(self) -> int:
        return len(self._queue.items)

    @contextmanager
    def expect(self, count: int) -> Iterator[None]:
        """Announce pictures that are being decoded: the only thing worth waiting for."""
        self._announce(count)
        try:
            yield
        finally:
            self._announce(-count)

    def _announce(self, count: int) -> None:
        with self._condition:
            self._queue.expected += count
            self._condition.notify_all()

    async def submit(self, array: EngineInput, *, deadline: float | None = None) -> Logits:
        """Classify one picture: uint8 (H, W, 3) or float32 (3, H, W).

        Args:
            deadline: `time.monotonic()` after which nobody wants the answer.

        Returns:
            Logits, float32, (K,).

        Raises:
            Overloaded, DeadlineExceeded, NotReady, InternalError.
        """
        return (await self.submit_many([array], deadline=deadline))[0]

    async def submit_many(
        self, arrays: Sequence[EngineInput], *, deadline: float | None = None
    ) -> list[Logits]:
        """Classify the pictures of one request: all are admitted, or none.

        Raises:
            WireError: of the first picture, in order, that failed.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        items = [
            _Item(array, (str(array.dtype), array.shape), deadline, now, loop, loop.create_future())
            for array in arrays
        ]
        self._enqueue(items)
        if deadline is not None:
            for item in items:
                item.timer = loop.call_at(loop.time() + deadline - now, self._expire, item)
        try:
            answers = await asyncio.gather(*(item.future for item in items), return_exceptions=True)
        finally:
            for item in items:
                if item.timer is not None:
                    item.timer.cancel()
                item.future.cancel()
            self._discard(items)
        results: list[Logits] = []
        for index, answer in enumerate(answers):
            if isinstance(answer, WireError):
                raise answer.at(f"image[{index}]") if len(items) > 1 else answer
            if isinstance(answer, BaseException):
                raise answer
            results.append(answer)
        return results

    def _enqueue(self, items: list[_Item]) -> None:
        with self._condition:
            if self._queue.stopping or self._failed:
                raise NotReady(STOPPED)
            if len(self._queue.items) + len(items) > self._max_queue:
                raise Overloaded("the queue in front of the model is full; retry later")
            self._queue.items.extend(items)
            self._condition.notify_all()

    def _discard(self, items: list[_Item]) -> None:
        """Take what is still queued of a request that ended early out of the queue."""
        with self._condition:
            if self._queue.items:
                gone = set(map(id, items))
                self._queue.items = deque(i for i in self._queue.items if id(i) not in gone)

    def _expire(self, item: _Item) -> None:
        if not item.future.done():
            item.future.set_exception(DeadlineExceeded(EXPIRED))

    # The device thread

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    _deliver(self._forward(batch))
        except BaseException:
            self._failed = True
            log.critical("the device thread ended", exc_info=True)
        finally:
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        with self._condition:
            self._queue.stopping = True
            waiting = list(self._queue.items)
            self._queue.items.clear()
        _deliver([(item, NotReady(STOPPED)) for item in waiting])

    def _next_batch(self) -> list[_Item] | None:
        """Wait for pictures and take those of one kind; None when stopping."""
        queue = self._queue
        with self._condition:
            while not queue.items and not queue.stopping:
                self._condition.wait()
            if queue.stopping:
                return None
            kind = queue.items[0].kind
            limit = min(self._max_batch_size, self._fits.get(kind, self._max_batch_size))
            patience = queue.items[0].arrived + self._max_wait_s
            while queue.expected > 0 and len(queue.items) < limit and not queue.stopping:
                remaining = patience - time.monotonic()
                if remaining <= 0:
                    break
                self._condition.wait(remaining)
            return self._take(kind, limit)

    def _take(self, kind: Kind, limit: int) -> list[_Item]:
        taken: list[_Item] = []
        kept: deque[_Item] = deque()
        now = time.monotonic()
        while self._queue.items and len(taken) < limit:
            item = self._queue.items.popleft()
            if item.kind != kind:
                kept.append(item)
            elif not item.future.done() and (item.deadline is None or now < item.deadline):
                taken.append(item)
            # Else nobody waits for it, or its own timer is about to say so.
        kept.extend(self._queue.items)
        self._queue.items = kept
        return taken

    def _forward(self, batch: list[_Item]) -> list[_Outcome]:
        """Run a batch; halve it until what is at fault stands alone."""
        try:
            logits = self.engine.forward(np.stack([item.array for item in batch]))
            if logits.ndim != 2 or len(logits) != len(batch):
                raise ValueError(f"engine answered {logits.shape} for {len(batch)} pictures")
        except EngineOutOfMemory:
            return self._split_for_memory(batch)
        except Exception:
            if len(batch) > 1:
                return self._halves(batch)
            log.exception("a picture could not be classified")
            return [(batch[0], InternalError())]
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            log.error("the network answered NaN or infinity", extra={"count": int((~finite).sum())})
        return [
            (item, row if good else InternalError())
            for item, row, good in zip(batch, logits, finite, strict=True)
        ]

    def _split_for_memory(self, batch: list[_Item]) -> list[_Outcome]:
        if len(batch) == 1:
            log.error("the device has no memory for a single picture")
            return [(batch[0], Overloaded("the device is out of memory; retry later"))]
        self._fits[batch[0].kind] = len(batch) // 2
        log.warning("out of device memory", extra={"batch_size_from_now": len(batch) // 2})
        return self._halves(batch)

    def _halves(self, batch: list[_Item]) -> list[_Outcome]:
        middle = len(batch) // 2
        return self._forward(batch[:middle]) + self._forward(batch[middle:])


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
