"""Decoding in threads of the server: nothing to hand over, and nothing contained."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from predictor.bundle.manifest import Preprocessing
from predictor.errors import NotReady, WireError, let_go
from predictor.inference.decode_pool import DecodePool, Job, Result, refuse_expired
from predictor.inference.decode_wire import Decoder
from predictor.inference.decoding import DecodeLimits, check_tensor, decode, prepare
from predictor.inference.delivery import STOPPED
from predictor.inference.engine import EngineInput
from predictor.inference.fair_queue import FairQueue
from predictor.inference.pictures import EncodedImage, Picture, Pixels
from predictor.inference.priority import LANE, give_way

log = logging.getLogger("predictor.decoding")


class ThreadDecodePool(DecodePool):
    """Pillow releases the GIL, so several threads run in parallel. A picture that crashes its
    decoder takes the server with it, and one that overruns cannot be stopped.

    Args:
        workers: threads, each with one picture at a time.
        weights: turns by caller; see `FairQueue`.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: DecodeLimits,
        *,
        workers: int,
        decoder: Decoder = decode,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self.workers = workers
        self._preprocessing = preprocessing
        self._limits = limits
        self._decoder = decoder
        self._working = [False] * workers
        # Every access to the two below holds the condition.
        self._condition = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue(weights)
        self._closed = False
        for number in range(workers):
            threading.Thread(
                target=self._serve, args=(number,), name=f"decode-{number}", daemon=True
            ).start()

    @property
    def backlog(self) -> int:
        """See `DecodePool.backlog`."""
        return len(self._queue) + sum(self._working)

    @property
    def healthy(self) -> bool:
        """See `DecodePool.healthy`."""
        return True

    def submit(self, jobs: Sequence[Job]) -> None:
        """See `DecodePool.submit`."""
        with self._condition:
            if self._closed:
                raise NotReady(STOPPED)
            for job in jobs:
                self._queue.push(job.caller, job)
            self._condition.notify(len(jobs))

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """See `DecodePool.withdraw`."""
        gone = set(jobs)
        with self._condition:
            self._queue.discard(gone.__contains__)

    def close(self) -> None:
        """See `DecodePool.close`."""
        with self._condition:
            self._closed = True
            waiting = self._queue.clear()
            self._condition.notify_all()
        for job in waiting:
            job.then(NotReady(STOPPED))

    async def wait_closed(self) -> None:
        """See `DecodePool.wait_closed`."""

    # A worker's thread

    def _serve(self, number: int) -> None:
        give_way(LANE)
        while (job := self._next(number)) is not None:
            try:
                if not job.future.done():
                    job.then(self._outcome(job))
            except Exception:  # a thread that ended would be missing for ever
                log.exception("a decode worker failed")
            del job  # else a waiting worker keeps the last picture alive

    def _next(self, number: int) -> Job | None:
        with self._condition:
            self._working[number] = False
            while not self._queue and not self._closed:
                self._condition.wait()
            if self._closed:
                return None
            self._working[number] = True
            return self._queue.pop()

    def _outcome(self, job: Job) -> Result | BaseException:
        try:
            began = refuse_expired(job.deadline)
            crop = job.context.run(self._prepared, job.picture)
            return Result(crop, time.monotonic() - began)
        except BaseException as error:
            if isinstance(error, WireError):
                let_go(error)  # of this frame, which has the picture, before a future keeps it
            return NotReady(STOPPED) if self._closed else error

    def _prepared(self, picture: Picture) -> EngineInput:
        if isinstance(picture, EncodedImage):
            return self._decoder(picture.data, self._preprocessing, self._limits)
        if isinstance(picture, Pixels):
            return prepare(picture.array, self._preprocessing, self._limits)
        check_tensor(picture.array, self._preprocessing)
        return picture.array
