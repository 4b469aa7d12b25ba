"""Decoders feed a batcher, which feeds an engine: a GPU's way, and torch's anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from predictor.inference.batcher import Batcher
from predictor.inference.costs import Mean, StagedCosts
from predictor.inference.decode_pool import DecodePool, Job, Result
from predictor.inference.delivery import Item
from predictor.inference.observer import Observer
from predictor.inference.pictures import Picture
from predictor.inference.timeline import Timeline


class StagedPipeline:
    """A `Pipeline`.

    Args:
        pool: decodes; closed with the pipeline, like the batcher.
    """

    def __init__(self, pool: DecodePool, batcher: Batcher) -> None:
        self._pool = pool
        self._batcher = batcher
        self._decode = Mean()
        self._observer = Observer()
        self.costs = StagedCosts(
            batcher.cost,
            self._decode,
            pool.workers,
            batcher.engine.at_once,
            batcher.max_batch_size,
            lambda: pool.backlog,
        )

    @property
    def observer(self) -> Observer:
        """See `Pipeline.observer`."""
        return self._observer

    @observer.setter
    def observer(self, observer: Observer) -> None:
        self._observer = self._batcher.observer = observer

    @property
    def engine(self) -> str:
        """See `Pipeline.engine`."""
        return self._batcher.engine.name

    @property
    def device(self) -> str:
        """See `Pipeline.device`."""
        return self._batcher.engine.device

    @property
    def gpu(self) -> str | None:
        """See `Pipeline.gpu`."""
        return self._batcher.engine.gpu

    @property
    def queue_depth(self) -> int:
        """See `Pipeline.queue_depth`."""
        return self._batcher.queue_depth

    @property
    def decodes(self) -> bool:
        """See `Pipeline.decodes`."""
        return self._pool.healthy

    @property
    def healthy(self) -> bool:
        """See `Pipeline.healthy`."""
        return self._batcher.healthy and self.decodes

    @property
    def longest_forward_s(self) -> float:
        """See `Pipeline.longest_forward_s`."""
        return self._batcher.longest_forward_s

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
        count = len(pictures)
        with self._batcher.expect(
            count, caller=caller, deadline=deadline, timeline=timeline
        ) as items:
            timeline.enter("decode", time.monotonic())
            jobs = [
                Job(
                    picture,
                    deadline,
                    item.future,
                    item.context,
                    partial(self._decoded, item),
                    caller,
                )
                for picture, item in zip(pictures, items, strict=True)
            ]
            try:
                self._pool.submit(jobs)
                yield items
            finally:
                if any(item.announced for item in items):
                    self._pool.withdraw(jobs)

    def _decoded(self, item: Item, outcome: Result | BaseException) -> None:
        """From whoever has it: a decoder's thread, or the event loop."""
        if not isinstance(outcome, Result):
            self._batcher.fail(item, outcome)
            return
        self._batcher.put(item, outcome.array)
        self._decode.observe(outcome.decode_s)
        self._observer.decoded(outcome.decode_s)

    def abandon(self) -> None:
        """See `Pipeline.abandon`."""
        self._batcher.abandon()

    async def close(self) -> None:
        """See `Pipeline.close`."""
        self._pool.close()
        await self._batcher.stop()
        await self._pool.wait_closed()
