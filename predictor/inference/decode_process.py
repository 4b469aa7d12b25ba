"""Decoding in processes of its own: a picture that breaks its decoder costs one request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.errors import (
    BundleError,
    NotReady,
    Overloaded,
    StartupError,
    WireError,
    let_go,
)
from predictor.inference.batcher import STOPPED
from predictor.inference.decode_channel import Channel, exit_name
from predictor.inference.decode_nursery import DecoderProcess, Nursery
from predictor.inference.decode_pool import DecodePool, Job, refuse_expired
from predictor.inference.decode_threads import ThreadDecodePool, check_tensor
from predictor.inference.decode_wire import EXIT_OUT_OF_MEMORY, Terms, is_tensor, size_of
from predictor.inference.decoding import check_bytes, check_pixels
from predictor.inference.engine import EngineInput
from predictor.inference.fair_queue import FairQueue
from predictor.inference.pictures import EncodedImage, Picture, Pixels

log = logging.getLogger("predictor.decoding")

RECYCLE_AFTER: Final = 10_000
LOST_AFTER_S: Final = 5.0
"""Starts that fail for as long as this are no burst: a new process of the server may do better."""
RETRY_S: Final = 0.25
"""Between two tries to start a decoder."""
_NEEDS_MORE: Final = (-signal.SIGPROF, -signal.SIGALRM, EXIT_OUT_OF_MEMORY)
"""How a decoder ends over a picture that may do better alone: it then has all the time and memory
that one picture may have."""
MOST_TRIES: Final = 2
"""So often a picture is tried again whose decoder ended, and not because of it."""
PATIENCE_S: Final = 0.5
"""How much longer than decoding may take a decoder may be silent: its own alarm comes first."""
GROUPED_BYTES: Final = 256 * 1024
"""Larger pictures get a forward of their own: what is lost by it is little beside decoding them,
and others would wait for that."""


def _nobody(jobs: Sequence[Job], began: float, ended: float) -> None:
    """Wants to know of forwards."""


class ProcessDecodePool(DecodePool):
    """Decoder processes. Lives on the event loop that first submits to it.

    Where the terms name a network, the processes run it as well, on all kinds of pictures, and
    several that wait share a forward. Where not, only what strangers wrote goes there: pixels and
    tensors are prepared in threads of the server.

    Args:
        workers: processes.
        weights: turns by caller; see `FairQueue`.
        recycle_after: pictures after which a decoder is replaced, whatever it may have leaked.
        patience_s: how much longer than decoding may take a decoder may be silent.

    Attributes:
        largest_batch: see `Forwards`.
        ran: called with the jobs of each forward, and when it began and ended.

    Raises:
        StartupError: no decoder can be started.
        BundleError: the network cannot be loaded.
    """

    largest_batch: int | None = 1

    def __init__(
        self,
        terms: Terms,
        *,
        workers: int,
        weights: Mapping[str, int] | None = None,
        recycle_after: int = RECYCLE_AFTER,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.workers = workers
        self.ran: Callable[[Sequence[Job], float, float], None] = _nobody
        self._terms = terms
        self._recycle_after = recycle_after
        self._patience_s = patience_s
        self._nursery = Nursery(terms)
        self._first = self._start_first()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._channels: set[Channel] = set()
        self._idle: list[Channel] = []
        self._starting = asyncio.Lock()
        """Held by whoever starts one: a nursery that loads a network may take minutes."""
        self._failing_since: float | None = None
        """`time.monotonic()` of the first start that failed, where none has worked since."""
        self._again: deque[Job] = deque()
        """Whose decoder has ended; each goes alone, and before all others, as they did already."""
        self._unable = 0
        """Places in which the last try to start a decoder has failed."""
        self._queue: FairQueue[Job] = FairQueue(weights)
        self._closed = False
        self._here = (
            ThreadDecodePool(terms.preprocessing, terms.limits, workers=workers, weights=weights)
            if terms.network is None
            else None
        )

    def _start_first(self) -> list[DecoderProcess]:
        first: list[DecoderProcess] = []
        try:
            for _ in range(self.workers):
                first.append(self._nursery.start_decoder())
        except (OSError, BundleError) as error:
            self._nursery.close()
            self._nursery.wait()
            for decoder in first:
                decoder.close()
            if isinstance(error, BundleError):
                raise
            raise StartupError(
                "the decoder processes do not start (decoding.mode); is decoding.max_memory_bytes "
                "enough, and may this container start processes?"
            ) from None
        return first

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """Run the network on one picture, before anything is submitted: see `Forwards`.

        Raises:
            StartupError: its process has ended.
        """
        try:
            return self._first[0].forward(batch)
        except OSError:
            raise StartupError("a lane ended while it was tried out; start again") from None

    @property
    def queued(self) -> int:
        """Pictures that wait for a decoder."""
        return len(self._queue) + len(self._again)

    @property
    def backlog(self) -> int:
        """See `DecodePool.backlog`."""
        here = self._here.backlog if self._here is not None else 0
        return here + self.queued + sum(len(channel.group) for channel in self._channels)

    @property
    def healthy(self) -> bool:
        """See `DecodePool.healthy`."""
        since = self._failing_since
        lost = since is not None and time.monotonic() - since >= LOST_AFTER_S
        return bool(self._channels) or not lost

    def submit(self, jobs: Sequence[Job]) -> None:
        """See `DecodePool.submit`."""
        if self._closed:
            raise NotReady(STOPPED)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            # Not in the context of a request, which they outlive.
            self._keepers = [
                loop.create_task(self._keep(first), context=Context()) for first in self._first
            ]
        if loop is not self._loop:
            raise RuntimeError("a pool lives on one event loop")
        for job in jobs:
            if self._here is not None and not isinstance(job.picture, EncodedImage):
                self._here.submit([job])
            elif self._unable == self.workers:
                raise _no_decoder()
            else:
                self._queue.push(job.caller, job)
        self._feed()

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """See `DecodePool.withdraw`."""
        gone = set(jobs)
        self._queue.discard(gone.__contains__)
        self._again = deque(job for job in self._again if job not in gone)
        if self._here is not None:
            self._here.withdraw(jobs)

    def close(self) -> None:
        """See `DecodePool.close`; what is being decoded ends, too."""
        self._closed = True
        ending = self._clear()
        for keeper in self._keepers:
            keeper.cancel()
        for channel in list(self._channels):
            ending += channel.group
            channel.stop()
        for decoder in self._first:  # a keeper that has not begun yet will not
            decoder.close()
        if self._here is not None:
            self._here.close()
        self._nursery.close()
        for job in ending:
            job.then(NotReady(STOPPED))

    async def wait_closed(self) -> None:
        """See `DecodePool.wait_closed`."""
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.to_thread(self._nursery.wait)

    # Giving pictures to decoders

    def _answered(self, channel: Channel) -> None:
        if channel.served >= self._recycle_after:
            channel.stop()
        else:
            self._idle.append(channel)
            self._feed()

    def _feed(self) -> None:
        """Keep every decoder busy while pictures wait."""
        while self._idle and self.queued:
            group = self._next_group()
            if group:
                self._idle.pop().start(group)

    def _next_group(self) -> list[Job]:
        """A decoder's share of what waits, of pictures that may share a forward."""
        if self._again:
            return self._wanted(self._again.popleft())
        network = self._terms.network
        share = math.ceil(len(self._queue) / self.workers)
        largest = 1 if network is None else min(network.largest_group, share)
        group: list[Job] = []
        while self._queue and len(group) < largest:
            job = self._queue.peek()
            if group and not _fits(job, group[0]):
                break
            group += self._wanted(self._queue.pop())
            if size_of(job.picture) > GROUPED_BYTES:
                break
        return group

    def _wanted(self, job: Job) -> list[Job]:
        """The job, or nothing where nobody waits for it, or it is refused."""
        if job.future.done():
            return []
        try:
            refuse_expired(job.deadline)
            self._check(job.picture)
        except WireError as refusal:
            let_go(refusal)  # of this frame, which has the picture, before a future keeps it
            job.then(refusal)
            return []
        return [job]

    def _clear(self) -> list[Job]:
        waiting = [*self._again, *self._queue.clear()]
        self._again.clear()
        return waiting

    def _check(self, picture: Picture) -> None:
        """Refuse what is not worth the way to a decoder. Raises WireError."""
        if isinstance(picture, EncodedImage):
            check_bytes(len(picture.data), self._terms.limits)
        elif isinstance(picture, Pixels):
            check_pixels(picture.array, self._terms.preprocessing, self._terms.limits)
        else:
            check_tensor(picture, self._terms.preprocessing)

    # Keeping decoders

    async def _keep(self, decoder: DecoderProcess) -> None:
        """One place in the pool: its decoder, and the next one whenever that ends."""
        while True:
            try:
                await self._serve(decoder)
            except Exception:  # a place without a keeper would be missing for ever
                log.exception("a decoder's keeper failed")
            finally:
                decoder.close()
            decoder = await self._another()

    async def _serve(self, decoder: DecoderProcess) -> None:
        """Have a decoder answer until it ends."""

        def make() -> Channel:
            return Channel(
                decoder,
                self._terms,
                answered=self._answered,
                ran=self.ran,
                patience_s=self._patience_s,
            )

        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(make, sock=decoder.work)
        self._channels.add(channel)
        self._idle.append(channel)
        try:
            self._feed()
            await channel.ended
            if channel in self._idle:
                self._idle.remove(channel)
            self._ended(channel, await self._end(decoder))
        finally:
            self._channels.discard(channel)

    async def _end(self, decoder: DecoderProcess) -> int | None:
        try:
            return await asyncio.to_thread(decoder.end)
        except RuntimeError:  # no thread can be started
            return None

    def _ended(self, channel: Channel, code: int | None) -> None:
        """Answer the picture that ended its decoder; those that only were there are tried again,
        each alone, so that none can end a decoder under others twice."""
        group, channel.group = channel.group, ()
        if not group and not channel.stopped:
            log.warning("a decoder ended while idle", extra={"exit": exit_name(code)})
        at_fault, begun = channel.at_fault, channel.begun
        decoding = at_fault < len(group)
        again: list[Job] = []
        for number, job in enumerate(group):
            alone = len(group) == 1 and begun
            blamed = number == at_fault and code not in _NEEDS_MORE
            if alone or blamed or job.tries == MOST_TRIES:
                job.then(job.context.run(partial(channel.death, code, decoding=decoding)))
            else:
                job.tries += 1
                again.append(job)
        self._again.extend(again)
        self._feed()

    async def _start(self) -> DecoderProcess:
        async with self._starting:
            starting = asyncio.ensure_future(asyncio.to_thread(self._nursery.start_decoder))
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:  # and the nursery is closed: it takes not long
                with contextlib.suppress(Exception):
                    (await starting).close()
                raise

    async def _another(self) -> DecoderProcess:
        """Start a decoder, however often it takes."""
        unable = False
        try:
            while True:
                try:
                    decoder = await self._start()
                except Exception as error:  # whatever it is, it is tried again
                    reason = error.message if isinstance(error, BundleError) else repr(error)
                    log.error("no decoder can be started", extra={"reason": reason})
                else:
                    self._failing_since = None
                    return decoder
                self._failing_since = self._failing_since or time.monotonic()
                if not unable:
                    unable = True
                    self._unable += 1
                if self._unable == self.workers:
                    for job in self._clear():
                        job.then(_no_decoder())
                await asyncio.sleep(RETRY_S)
        finally:
            self._unable -= unable


def _fits(job: Job, first: Job) -> bool:
    """Whether it may share a forward with `first`, and its decoder."""
    return size_of(job.picture) <= GROUPED_BYTES and is_tensor(job.picture) == is_tensor(
        first.picture
    )


def _no_decoder() -> Overloaded:
    return Overloaded("no decoder can be started now; retry later", reason="decoder")
