"""A process for each core, which decodes a picture and runs the network on it: a CPU's way.

A picture crosses between processes once, and no thread but the event loop's touches it. Pictures
that wait when a lane gets free share its next forward, for a network's weights then come into the
core's cache once for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter

import numpy as np

from predictor.inference.costs import LaneCosts, Mean
from predictor.inference.decode_pool import Job, Result
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.delivery import Item, Passed, on_their_way, outcomes_of, settle
from predictor.inference.observer import Observer
from predictor.inference.onnx_engine import OnnxEngine
from predictor.inference.pictures import Picture
from predictor.inference.timeline import Timeline

_PASSED: Passed = (
    ("decode", attrgetter("taken")),
    ("forward", attrgetter("decoded")),
    ("encode", attrgetter("answered")),
)


class LanePipeline:
    """A `Pipeline` of ONNX Runtime.

    A forward that crashes or hangs costs its lane, which is replaced: nothing but the end of all
    lanes is a reason to end the process.

    Args:
        pool: its processes run the network; closed with the pipeline.
    """

    engine = OnnxEngine.name
    device = OnnxEngine.device
    gpu: str | None = None
    longest_forward_s = 0.0

    def __init__(self, pool: ProcessDecodePool) -> None:
        self._pool = pool
        self._closed = False
        self._picture = Mean()
        self.observer = Observer()
        self.costs = LaneCosts(self._picture, pool.workers, lambda: pool.backlog)
        pool.ran = self._ran

    @property
    def queue_depth(self) -> int:
        """See `Pipeline.queue_depth`."""
        return self._pool.queued

    @property
    def decodes(self) -> bool:
        """See `Pipeline.decodes`."""
        return self._pool.healthy

    @property
    def healthy(self) -> bool:
        """See `Pipeline.healthy`."""
        return self.decodes and not self._closed

    @contextmanager
    def run(
        self,
        pictures: Sequence[Picture],
        *,
        caller: str,
        deadline: float | None,
        timeline: Timeline,
    ) -> Iterator[list[Item]]:
        """See `Pipeline.run`."""
        with on_their_way(len(pictures), caller, deadline, timeline, _PASSED) as items:
            now = time.monotonic()
            timeline.enter("queue", now)
            for item in items:
                item.arrived = now
            jobs = [
                Job(
                    picture,
                    deadline,
                    item.future,
                    item.context,
                    partial(self._answered, item),
                    caller,
                    timeline,
                )
                for picture, item in zip(pictures, items, strict=True)
            ]
            try:
                self._pool.submit(jobs)
                yield items
            finally:
                if any(item.answered is None for item in items):
                    self._pool.withdraw(jobs)
                    for item, job in zip(items, jobs, strict=True):
                        item.taken = item.taken or job.began

    def _ran(self, jobs: Sequence[Job], began: float, ended: float) -> None:
        timelines = [job.timeline for job in jobs if job.timeline is not None]
        for timeline in timelines:
            timeline.batch_size = max(timeline.batch_size, len(jobs))
        self.observer.forwarded(timelines, began, ended)

    def _answered(self, item: Item, outcome: Result | BaseException) -> None:
        if not isinstance(outcome, Result):
            settle([(item, outcome)])
            return
        now = item.answered = time.monotonic()
        item.decoded = now - outcome.forward_s
        item.taken = now - outcome.took_s
        logits = outcome.array.astype(np.float32, copy=False)[np.newaxis]
        settle(item.context.run(outcomes_of, [item], logits))
        self._picture.observe(outcome.decode_s + outcome.forward_s / outcome.shared_by)
        if item.arrived is not None:
            self.observer.waited([max(0.0, item.taken - item.arrived)])
        self.observer.decoded(outcome.decode_s)

    def abandon(self) -> None:
        """See `Pipeline.abandon`."""
        self._closed = True
        self._pool.close()

    async def close(self) -> None:
        """See `Pipeline.close`."""
        self.abandon()
        await self._pool.wait_closed()
