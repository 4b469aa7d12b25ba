"""Pictures of many callers, one device: coalesce, keep deadlines, isolate what is bad.

Each lane of the engine (a CPU has one per core) is a thread that takes whatever is waiting when it
gets free, callers in turn, so batches grow with load and an idle server answers at once. Where
lanes share a device, as on a GPU, one goes while another's forward runs only with a full batch:
until the device is free, the batch may as well grow. A lane waits for more only while a picture
that is expected is still being decoded, and only as long as the forward is worth that it would then
save. Pictures come straight from whoever decoded them.

What an item's owner does never touches its neighbours: a cancelled or expired item leaves the
queue before it runs, and a batch that fails is halved until the item at fault fails alone, while
each half that succeeds is answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter

from predictor.errors import InternalError, NotReady, Overloaded
from predictor.inference.cost import CostCurve
from predictor.inference.delivery import (
    STOPPED,
    Item,
    Outcome,
    Passed,
    deliver,
    on_their_way,
    outcomes_of,
)
from predictor.inference.engine import Engine, EngineInput, EngineLost, EngineOutOfMemory
from predictor.inference.fair_queue import FairQueue
from predictor.inference.observer import Observer
from predictor.inference.priority import LANE, give_way
from predictor.inference.rooms import Rooms
from predictor.inference.timeline import Timeline

log = logging.getLogger("predictor.batcher")


_PASSED: Passed = (
    ("queue", attrgetter("arrived")),
    ("forward", attrgetter("taken")),
    ("encode", attrgetter("answered")),
)


@dataclass(slots=True)
class _Lane:
    """One thread and what it is doing. `batch` is read and written under the condition."""

    thread: threading.Thread
    batch: list[Item] = field(default_factory=list)
    forward_began: float | None = None


class Batcher:
    """The queue in front of one engine.

    Args:
        max_batch_size: most pictures in one forward.
        max_wait_s: longest a batch waits for announced pictures, whatever it would save.
        weights: turns by caller; see `FairQueue`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch_size: int,
        max_wait_s: float,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self.engine = engine
        self.max_batch_size = max_batch_size
        self.cost = CostCurve()
        self.observer = Observer()
        self._max_wait_s = max_wait_s
        self._rooms = Rooms(max_batch_size)
        # Every access to the queue and the two below holds the condition.
        self._condition = threading.Condition()
        self._queue: FairQueue[Item] = FairQueue(weights)
        self._expected = 0
        self._stopping = False
        self._lanes = [
            _Lane(threading.Thread(target=self._run, args=(number,), name=f"lane-{number}"))
            for number in range(engine.lanes)
        ]
        self._failed = False
        self._device_free = 0.0  # `time.monotonic()` at which the last forward ended

    def start(self) -> None:
        for lane in self._lanes:
            lane.thread.daemon = True
            lane.thread.start()

    async def stop(self) -> None:
        """Refuse new pictures, fail the waiting ones with NotReady, and end the threads.

        What is on the device is still answered.
        """
        self._close()
        for lane in self._lanes:
            if lane.thread.is_alive():
                await asyncio.to_thread(lane.thread.join)

    def abandon(self) -> None:
        """Like `stop` for a device that answers nothing any more: nobody waits for its threads."""
        self._failed = True
        with self._condition:
            on_device = [item for lane in self._lanes for item in lane.batch]
        self._close(on_device)

    @property
    def healthy(self) -> bool:
        return not self._failed and all(lane.thread.is_alive() for lane in self._lanes)

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    @property
    def longest_forward_s(self) -> float:
        """Seconds since the oldest forward that still runs began; 0 when none runs.

        One that waits for another lane's has not begun before that one ended.
        """
        now = time.monotonic()
        began = (lane.forward_began for lane in self._lanes)
        free = self._device_free if self._shares_device else 0.0
        return max((now - max(moment, free) for moment in began if moment is not None), default=0.0)

    @contextmanager
    def expect(
        self,
        count: int,
        *,
        caller: str = "",
        deadline: float | None = None,
        timeline: Timeline | None = None,
    ) -> Iterator[list[Item]]:
        """Announce the pictures of one request, which are decoded meanwhile: the only thing worth
        waiting for. Each is to be `put`, or to `fail`; `answers_of` waits for all.

        Args:
            caller: whose turns they use.
            deadline: `time.monotonic()` after which nobody wants the answer; then they fail.
            timeline: the request's; it learns when the pictures were decoded, left the queue, and
                left the network.

        Raises:
            NotReady: the batcher is stopped.
        """
        with self._condition:
            if self._stopping or self._failed:
                raise NotReady(STOPPED)
            self._expected += count
        timeline = timeline or Timeline(time.monotonic())
        with on_their_way(count, caller, deadline, timeline, _PASSED) as items:
            try:
                yield items
            finally:
                self._forget(items)

    def put(self, item: Item, array: EngineInput) -> None:
        """Queue an expected picture, uint8 (H, W, 3) or float32 (3, H, W). From any thread."""
        item.array = array
        item.kind = (array.dtype.char, array.shape)
        with self._condition:
            refused = self._stopping or self._failed
            if not refused and not item.future.done():
                item.arrived = time.monotonic()
                self._queue.push(item.caller, item)
            self._withdraw(item)
            self._wake()
        if refused:
            deliver([(item, NotReady(STOPPED))])

    def fail(self, item: Item, error: BaseException) -> None:
        """Answer an expected picture with an error. From any thread."""
        with self._condition:
            self._withdraw(item)
            self._wake()
        deliver([(item, error)])

    def _wake(self) -> None:
        """Let a lane look, where it may go: a busy one looks by itself when it gets free."""
        if not self._device_busy or (self._queue and len(self._queue) >= self._limit):
            self._condition.notify()

    def _withdraw(self, item: Item) -> None:
        if item.announced:
            item.announced = False
            self._expected -= 1

    def _forget(self, items: Sequence[Item]) -> None:
        """Take what is left of a request that ended out of the queue, and wait for it no more."""
        gone = {
            item
            for item in items
            if item.taken is None and (item.announced or item.arrived is not None)
        }
        if not gone:  # and neither changes back
            return
        with self._condition:
            self._queue.discard(gone.__contains__)
            for item in gone:
                self._withdraw(item)
            self._wake()

    def _close(self, on_device: Sequence[Item] = ()) -> None:
        """Admit nothing more; fail what waits, and what was lost on the device."""
        with self._condition:
            self._stopping = True
            lost = [*on_device, *self._queue.clear()]
            self._condition.notify_all()
        deliver([(item, NotReady(STOPPED)) for item in lost])

    # A lane's thread

    def _run(self, number: int) -> None:
        lane = self._lanes[number]
        if self.engine.gpu is None:  # a GPU's thread only hands over
            give_way(LANE)
        try:
            while self._next_batch(lane):
                self._classify(lane)
        except BaseException:
            self._failed = True
            log.critical("the device thread ended", exc_info=True)
        finally:
            self._close(lane.batch)

    def _next_batch(self, lane: _Lane) -> bool:
        """Wait for pictures and give the lane those of one kind; False when stopping."""
        with self._condition:
            lane.batch = []
            while not self._queue and not self._stopping:
                self._condition.wait()
            if self._stopping:
                return False
            while 0 < len(self._queue) < self._limit and not self._stopping:
                remaining = None if self._device_busy else self._remaining_s()
                if remaining is not None and remaining <= 0:
                    break
                self._condition.wait(remaining)
            if self._queue:  # another lane may have been quicker
                lane.batch = self._take()
            if self._queue:  # which woke this lane, and may have left another asleep
                self._wake()
            return True

    @property
    def _shares_device(self) -> bool:
        """Whether a lane's forward may have to wait for another's."""
        return self.engine.at_once < len(self._lanes)

    @property
    def _device_busy(self) -> bool:
        """Whether another lane has to end its forward before this one's can begin."""
        return sum(bool(lane.batch) for lane in self._lanes) >= self.engine.at_once

    def _remaining_s(self) -> float:
        """How long a batch still waits for pictures that are on their way."""
        return self._leaves_at() - time.monotonic() if self._expected > 0 else 0.0

    def _leaves_at(self) -> float:
        """`time.monotonic()` at which a batch goes although another picture is on its way.

        When that one comes is not known, what it saves is: the forward of its own, less what the
        fuller batch takes longer. Whoever waits just so long loses at most as much again as by the
        best choice in hindsight, and no rule without a forecast does better (ski rental; Karlin,
        Manasse, Rudolph, Sleator: Competitive snoopy caching, 1988). Where a forward costs the same
        for each picture, as in a lane on one core, nothing is saved and nobody waits.
        """
        waiting = len(self._queue)
        fuller = self.cost.seconds(waiting + 1)
        saved = self.cost.seconds(waiting) + self.cost.seconds(1) - fuller
        leaves = (self._queue.peek().arrived or 0.0) + min(max(saved, 0.0), self._max_wait_s)
        deadlines = (item.deadline for item in self._queue)
        return min([leaves, *(each - fuller for each in deadlines if each is not None)])

    @property
    def _limit(self) -> int:
        """Most pictures in the next batch, which is of the kind of the first that waits."""
        return self._rooms.size(self._queue.peek().kind)

    def _take(self) -> list[Item]:
        """A lane's share of what waits, callers in turn, all of one kind."""
        kind = self._queue.peek().kind
        share = math.ceil(len(self._queue) / self.engine.at_once)
        batch = self._queue.take(min(self._limit, share), lambda item: item.kind == kind)
        now = time.monotonic()
        for item in batch:
            item.taken = now
        return batch

    def _classify(self, lane: _Lane) -> None:
        """Run the lane's batch without those whom nobody waits for; halve it until what is at
        fault stands alone.
        """
        self.observer.waited(
            [item.taken - item.arrived for item in lane.batch if item.taken and item.arrived]
        )
        groups = [lane.batch]
        while groups:
            now = time.monotonic()
            group = [item for item in groups.pop() if item.wanted(now)]
            outcomes = self._forward(lane, group) if group else []
            if outcomes is None:
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
            else:
                deliver(outcomes)

    def _forward(self, lane: _Lane, group: list[Item]) -> list[Outcome] | None:
        """Run pictures of one kind; None where they failed together and are to be halved.

        Halving is left to the caller: an exception that is being handled keeps what the failed
        forward had on the device.
        """
        began = lane.forward_began = time.monotonic()
        try:
            batch = self.engine.stack([item.array for item in group])
            outcomes = outcomes_of(group, self.engine.forward(batch))
        except EngineLost:
            raise
        except EngineOutOfMemory:
            return self._out_of_memory(group)
        except Exception:
            if len(group) > 1:
                return None
            group[0].context.run(log.exception, "a picture could not be classified")
            return [(group[0], InternalError())]
        finally:
            with self._condition:
                lane.forward_began = None
                ended = time.monotonic()
                if self._shares_device:  # it may have waited for another lane's
                    began = max(began, self._device_free)
                self._device_free = ended
        for item in group:
            item.answered = ended
            item.timeline.batch_size = max(item.timeline.batch_size, len(group))
        self.cost.observe(len(group), ended - began)
        self.observer.forwarded([item.timeline for item in group], began, ended)
        self._rooms.fitted(group[0].kind, len(group))
        return outcomes

    def _out_of_memory(self, group: list[Item]) -> list[Outcome] | None:
        smaller = self._rooms.halve(group[0].kind, len(group))
        log.warning("out of device memory", extra={"batch_size_from_now": smaller})
        if len(group) > 1:
            return None
        short = Overloaded("the device is out of memory; retry later", reason="device_memory")
        return [(group[0], short)]
