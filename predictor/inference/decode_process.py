"""Decoding in processes of its own: a picture that breaks its decoder costs one request."""

from __future__ import annotations

import logging
import math
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.errors import (
    NotReady,
    Overloaded,
    StartupError,
    WireError,
    let_go,
)
from predictor.inference.decode_channel import Channel, exit_name
from predictor.inference.decode_keepers import Keepers
from predictor.inference.decode_nursery import DecoderProcess
from predictor.inference.decode_pool import DecodePool, Job, refuse_expired
from predictor.inference.decode_threads import ThreadDecodePool
from predictor.inference.decode_wire import EXIT_OUT_OF_MEMORY, Terms, is_tensor, size_of
from predictor.inference.decoding import check_bytes, check_pixels, check_tensor
from predictor.inference.delivery import STOPPED
from predictor.inference.engine import EngineInput
from predictor.inference.fair_queue import FairQueue
from predictor.inference.pictures import EncodedImage, Picture, Pixels

log = logging.getLogger("predictor.decoding")

RECYCLE_AFTER: Final = 10_000
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
        self._keepers = Keepers(terms, workers, self)
        self._idle: list[Channel] = []
        self._again: deque[Job] = deque()
        """Whose decoder has ended; each goes alone, and before all others, as they did already."""
        self._queue: FairQueue[Job] = FairQueue(weights)
        self._closed = False
        self._here = (
            ThreadDecodePool(terms.preprocessing, terms.limits, workers=workers, weights=weights)
            if terms.network is None
            else None
        )

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """Run the network on one picture, before anything is submitted: see `Forwards`.

        Raises:
            StartupError: its process has ended.
        """
        try:
            return self._keepers.first[0].forward(batch)
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
        return here + self.queued + sum(len(channel.group) for channel in self._keepers.channels)

    @property
    def healthy(self) -> bool:
        """See `DecodePool.healthy`."""
        return self._keepers.healthy

    def submit(self, jobs: Sequence[Job]) -> None:
        """See `DecodePool.submit`."""
        if self._closed:
            raise NotReady(STOPPED)
        self._keepers.begin()
        for job in jobs:
            if self._here is not None and not isinstance(job.picture, EncodedImage):
                self._here.submit([job])
            elif not self._keepers.able:
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
        for channel in self._keepers.channels:
            ending += channel.group
        if self._here is not None:
            self._here.close()
        self._keepers.close()
        for job in ending:
            job.then(NotReady(STOPPED))

    async def wait_closed(self) -> None:
        """See `DecodePool.wait_closed`."""
        await self._keepers.wait_closed()

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
        largest = 1 if network is None else min(network.largest_batch, share)
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
            check_tensor(picture.array, self._terms.preprocessing)

    # The keepers' side

    def channel_to(self, decoder: DecoderProcess) -> Channel:
        """See `Owner.channel_to`."""
        return Channel(
            decoder,
            self._terms,
            answered=self._answered,
            ran=self.ran,
            patience_s=self._patience_s,
        )

    def opened(self, channel: Channel) -> None:
        """See `Owner.opened`."""
        self._idle.append(channel)
        self._feed()

    def closed(self, channel: Channel) -> None:
        """See `Owner.closed`."""
        if channel in self._idle:
            self._idle.remove(channel)

    def ended(self, channel: Channel, code: int | None) -> None:
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

    def unable(self) -> None:
        """See `Owner.unable`."""
        for job in self._clear():
            job.then(_no_decoder())


def _fits(job: Job, first: Job) -> bool:
    """Whether it may share a forward with `first`, and its decoder."""
    return size_of(job.picture) <= GROUPED_BYTES and is_tensor(job.picture) == is_tensor(
        first.picture
    )


def _no_decoder() -> Overloaded:
    return Overloaded("no decoder can be started now; retry later", reason="decoder")
