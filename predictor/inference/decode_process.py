"""Decoding in processes of its own: a picture that breaks its decoder costs one request."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from contextvars import Context, copy_context
from typing import Final, NamedTuple

from predictor.errors import NotReady, Overloaded, StartupError
from predictor.inference.batcher import STOPPED
from predictor.inference.decode_nursery import DecoderProcess, EndedIdle, Nursery
from predictor.inference.decode_pool import Prepared, prepare_decoded, refuse_expired
from predictor.inference.decode_worker import Terms
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture

log = logging.getLogger("predictor.decoding")

RECYCLE_AFTER: Final = 10_000


class _Job(NamedTuple):
    """Attributes: context: its request's, for what is logged about it."""

    picture: Picture
    deadline: float | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Prepared]
    context: Context

    def end(self, outcome: Prepared | BaseException) -> None:
        """Tell whoever waits for it, from any thread."""
        try:
            self.loop.call_soon_threadsafe(_settle, self.future, outcome)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            log.warning("a decoded picture without a loop")


def _settle(future: asyncio.Future[Prepared], outcome: Prepared | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class ProcessDecodePool:
    """Each worker is a thread that hands pictures to a decoder process and replaces it when it
    dies, overruns a limit, or has served its time.

    Args:
        workers: pictures decoded at once.
        recycle_after: pictures after which a decoder is replaced, whatever it may have leaked.

    Raises:
        StartupError: no decoder can be started.
    """

    def __init__(self, terms: Terms, *, workers: int, recycle_after: int = RECYCLE_AFTER) -> None:
        self.workers = workers
        self._terms = terms
        self._recycle_after = recycle_after
        self._nursery = Nursery(terms)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        first: list[DecoderProcess] = []
        try:
            for _ in range(workers):
                first.append(self._nursery.start_decoder())
        except OSError:
            self._nursery.close()
            self._nursery.wait()
            for decoder in first:
                decoder.close()
            raise StartupError(
                "the decoder processes do not start (decoding.mode); is decoding.max_memory_bytes "
                "enough, and may this container start processes?"
            ) from None
        for decoder in first:
            threading.Thread(
                target=self._serve, args=(decoder,), name="decode", daemon=True
            ).start()

    def submit(self, picture: Picture, deadline: float | None) -> asyncio.Future[Prepared]:
        if self._closed:
            raise NotReady(STOPPED)
        loop = asyncio.get_running_loop()
        # Not concurrent.futures, whose locks and copied results would be a tenth of a request.
        future: asyncio.Future[Prepared] = loop.create_future()
        self._jobs.put(_Job(picture, deadline, loop, future, copy_context()))
        return future

    def close(self) -> None:
        self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.end(NotReady(STOPPED))
        for _ in range(self.workers):
            self._jobs.put(None)
        self._nursery.close()

    def _serve(self, first: DecoderProcess) -> None:
        decoder: DecoderProcess | None = first
        while (job := self._jobs.get()) is not None:
            decoder = job.context.run(self._do, job, decoder)
            del job  # else a waiting worker keeps the last picture alive
        if decoder is not None:
            decoder.close()
        self._nursery.wait()

    def _do(self, job: _Job, decoder: DecoderProcess | None) -> DecoderProcess | None:
        """Prepare one picture; return the decoder for the next."""
        picture, deadline = job.picture, job.deadline
        if job.future.cancelled():
            return decoder
        try:
            began = refuse_expired(deadline)
            if isinstance(picture, EncodedImage):
                decoder = decoder or self._started()
                try:
                    crop: EngineInput = decoder.decode(picture.data, deadline)
                except EndedIdle:
                    log.warning("a decoder ended while idle", extra={"exit": decoder.end()})
                    decoder = self._started()
                    crop = decoder.decode(picture.data, deadline)
            else:
                crop = prepare_decoded(picture, self._terms.preprocessing, self._terms.limits)
            job.end(Prepared(crop, time.monotonic() - began))
        except BaseException as error:
            job.end(NotReady(STOPPED) if self._closed else error)
        return decoder if self._closed else self._replaced(decoder)

    def _started(self) -> DecoderProcess:
        try:
            return self._nursery.start_decoder()
        except OSError as error:
            if self._closed:
                raise NotReady(STOPPED) from None
            log.error("no decoder can be started", extra={"reason": error.strerror})
            raise Overloaded(
                "no decoder can be started now; retry later", reason="decoder"
            ) from None

    def _replaced(self, decoder: DecoderProcess | None) -> DecoderProcess | None:
        """After the answer, so that the next picture does not wait for a start."""
        if decoder is None or (decoder.usable and decoder.served < self._recycle_after):
            return decoder
        decoder.end()
        try:
            return self._nursery.start_decoder()
        except OSError:
            return None  # the next picture tries again, and says so
