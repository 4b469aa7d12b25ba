"""Where pictures are decoded, off the event loop. docs/decisions has the why of each mode."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from predictor.bundle.manifest import Preprocessing
from predictor.errors import DeadlineExceeded, InvalidRequest, NotReady, WireError, let_go
from predictor.inference.batcher import STOPPED
from predictor.inference.decode_worker import Decoder
from predictor.inference.decoding import DecodeLimits, decode, prepare
from predictor.inference.delivery import EXPIRED
from predictor.inference.engine import EngineInput
from predictor.inference.fair_queue import FairQueue
from predictor.inference.pictures import EncodedImage, Picture, Pixels
from predictor.inference.priority import LANE, give_way

log = logging.getLogger("predictor.decoding")


class Prepared(NamedTuple):
    """What the network sees of a picture, and the seconds a worker was at it."""

    crop: EngineInput
    took_s: float


Then: TypeAlias = Callable[[Prepared | BaseException], None]


@dataclass(slots=True, eq=False)
class Job:
    """One picture to decode.

    Attributes:
        deadline: `time.monotonic()` after which nobody wants the result.
        future: of the answer; once it is done nobody wants the result either.
        context: its request's, for what is logged about it.
        then: called with the result, or the WireError that there is instead, in the worker's
            thread: straight on to the network, without asking the event loop.
    """

    picture: Picture
    deadline: float | None
    future: asyncio.Future[Any]
    context: Context
    then: Then


class Worker(Protocol):
    """One thread's way to decode."""

    def prepare(self, picture: Picture, deadline: float | None) -> EngineInput:
        """Raises WireError."""
        ...

    def rest(self) -> None:
        """After each picture, when its result is on its way already."""

    def end(self) -> None:
        """The pool is closed, and there will be no more."""


class DecodePool:
    """Threads that decode, one picture each at a time, callers in turn.

    Args:
        workers: one for each thread.
        weights: turns by caller; see `FairQueue`.

    Attributes:
        workers: pictures decoded at once.
    """

    def __init__(self, workers: Sequence[Worker], weights: Mapping[str, int] | None = None) -> None:
        self.workers = len(workers)
        self._working = [False] * len(workers)
        # Every access to the two below holds the condition.
        self._condition = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue(weights)
        self._closed = False
        for number, worker in enumerate(workers):
            threading.Thread(
                target=self._serve, args=(number, worker), name=f"decode-{number}", daemon=True
            ).start()

    @property
    def backlog(self) -> int:
        """Pictures that wait to be decoded, or are being decoded."""
        return len(self._queue) + sum(self._working)

    @property
    def healthy(self) -> bool:
        """False once it has been unable to decode for too long."""
        return True

    def submit(self, caller: str, jobs: Sequence[Job]) -> None:
        """Queue pictures. Raises NotReady: the pool is closed."""
        with self._condition:
            if self._closed:
                raise NotReady(STOPPED)
            for job in jobs:
                self._queue.push(caller, job)
            self._condition.notify(len(jobs))

    async def decode(self, picture: Picture, deadline: float | None = None) -> Prepared:
        """Decode one picture for its own sake. Raises WireError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Prepared] = loop.create_future()

        def settle(outcome: Prepared | BaseException) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def then(outcome: Prepared | BaseException) -> None:
            loop.call_soon_threadsafe(settle, outcome)

        job = Job(picture, deadline, future, copy_context(), then)
        self.submit("", [job])
        try:
            return await future
        finally:
            self.withdraw([job])

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Take out of the queue what is still in it."""
        gone = set(jobs)
        with self._condition:
            self._queue.discard(gone.__contains__)

    def close(self) -> None:
        """Fail what is queued with NotReady; let go of the workers, without waiting for them."""
        with self._condition:
            self._closed = True
            waiting = self._queue.clear()
            self._condition.notify_all()
        for job in waiting:
            job.then(NotReady(STOPPED))

    # A worker's thread

    def _serve(self, number: int, worker: Worker) -> None:
        give_way(LANE)
        while (job := self._next(number)) is not None:
            try:
                if not job.future.done():
                    job.then(self._prepared(worker, job))
                del job  # else a waiting worker keeps the last picture alive
                worker.rest()
            except Exception:  # a thread that ended would be missing for ever
                log.exception("a decode worker failed")
        worker.end()

    def _next(self, number: int) -> Job | None:
        with self._condition:
            self._working[number] = False
            while not self._queue and not self._closed:
                self._condition.wait()
            if self._closed:
                return None
            self._working[number] = True
            return self._queue.pop()

    def _prepared(self, worker: Worker, job: Job) -> Prepared | BaseException:
        try:
            began = refuse_expired(job.deadline)
            crop = job.context.run(worker.prepare, job.picture, job.deadline)
            return Prepared(crop, time.monotonic() - began)
        except BaseException as error:
            if isinstance(error, WireError):
                let_go(error)  # of this frame, which has the picture, before a future keeps it
            return NotReady(STOPPED) if self._closed else error


class ThreadWorker:
    """Decodes in its own thread. Pillow releases the GIL, so several run in parallel; one that
    crashes takes the server with it, and one that overruns cannot be stopped."""

    def __init__(
        self, preprocessing: Preprocessing, limits: DecodeLimits, decoder: Decoder = decode
    ) -> None:
        self._preprocessing = preprocessing
        self._limits = limits
        self._decoder = decoder

    def prepare(self, picture: Picture, deadline: float | None) -> EngineInput:
        """See `Worker.prepare`."""
        if isinstance(picture, EncodedImage):
            return self._decoder(picture.data, self._preprocessing, self._limits)
        return prepare_decoded(picture, self._preprocessing, self._limits)

    def rest(self) -> None:
        """Nothing has to be replaced."""

    def end(self) -> None:
        """Nothing has to be given back."""


def refuse_expired(deadline: float | None) -> float:
    """Return `time.monotonic()`, or raise DeadlineExceeded when it is past `deadline`."""
    now = time.monotonic()
    if deadline is not None and now >= deadline:
        raise DeadlineExceeded(EXPIRED)
    return now


def prepare_decoded(
    picture: Picture, preprocessing: Preprocessing, limits: DecodeLimits
) -> EngineInput:
    """Resize pixels, or check a tensor: nothing here parses what a stranger wrote.

    Raises:
        ImageTooLarge, InvalidImage, InvalidRequest.
    """
    if isinstance(picture, Pixels):
        return prepare(picture.array, preprocessing, limits)
    if isinstance(picture, EncodedImage):
        raise TypeError("an encoded picture is not decoded")
    expected = (3, *preprocessing.input_size)
    if picture.array.shape != expected:
        raise InvalidRequest(f"a preprocessed tensor must have shape {expected} here")
    return picture.array
