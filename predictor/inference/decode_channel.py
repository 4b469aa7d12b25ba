"""A decoder process as the event loop sees it: it is given pictures, and answers them.

The loop speaks to it without a thread between: over one socket, by a transport, whose callbacks
cost less than a task's turns. docs/decisions/0012 has what that is worth.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

import numpy as np

from predictor.errors import DeadlineExceeded, InternalError, InvalidImage, Overloaded, WireError
from predictor.inference.decode_nursery import DecoderProcess
from predictor.inference.decode_pool import Job, Result
from predictor.inference.decode_wire import (
    BROKEN,
    DONE,
    EXIT_OUT_OF_MEMORY,
    GROUP,
    MAX_TEXT,
    NO_ROOM,
    OUT_OF_MEMORY,
    REFUSALS,
    REPLY,
    Terms,
    request_of,
)
from predictor.inference.delivery import EXPIRED

log = logging.getLogger("predictor.decoding")

UNASKED_S: Final = 60.0
"""Longest that one picture may be decoded whose request names no deadline."""
WORTH_KILLING_S: Final = 0.1
"""A decoder whose request expired is left this long to finish: ending it sooner would let callers
with short deadlines spend our processes at less than they cost."""
GROUP_CPU_S: Final = 0.1
"""CPU seconds for a picture that others wait for in the same group. One that takes more, which few
small ones do, is tried again alone."""
CRASHES: Final = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP),
    *(signal.SIGABRT, signal.SIGSYS),
}
"""Signals that a process brings on itself. Any other comes from outside, whatever the picture."""
ENDED: Final = "the decoder was ended before the picture was decoded; retry later"

NOT_BEGUN: Final = 255
"""In place of the number of a picture."""

Reply: TypeAlias = tuple[int, float, memoryview | bytes]
"""Kind, seconds in the network as it says, and what goes with it."""
Outcome: TypeAlias = Result | WireError


class Channel(asyncio.BufferedProtocol):
    """One group of pictures at a time.

    Args:
        answered: called when a group is done, before its jobs are told: the next one can be given.
        ran: called with the jobs of a forward, and when it began and ended.
        patience_s: how much longer than decoding may take a group may be away.

    Attributes:
        group: the jobs it is at; what is left of them, once it has ended.
        ended: done once it is of no more use.
        stopped: whether that was our choice.
        served: pictures so far.
    """

    def __init__(
        self,
        decoder: DecoderProcess,
        terms: Terms,
        *,
        answered: Callable[[Channel], None],
        ran: Callable[[Sequence[Job], float, float], None],
        patience_s: float,
    ) -> None:
        self.group: Sequence[Job] = ()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped = False
        self.served = 0
        self._decoder = decoder
        self._terms = terms
        self._answered = answered
        self._ran = ran
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._dtype, self._shape = terms.result
        self._result_bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        largest = 1 if terms.network is None else terms.network.largest_batch
        # One more than there can be, for a buffer that is full when it is asked for is an error.
        room = largest * (REPLY.size + max(MAX_TEXT, self._result_bytes)) + 1
        self._view = memoryview(bytearray(room))
        self._received = 0
        self._began = self._allowed_until = 0.0
        self._gives_up: asyncio.TimerHandle | None = None
        self._gave_up = False

    def start(self, group: Sequence[Job]) -> None:
        """Send pictures; several only where the network is run on them."""
        self.group = group
        self._decoder.progress[0] = NOT_BEGUN
        if self._transport.is_closing():  # it ended a moment ago, and who keeps it will find them
            return
        now = self._began = time.monotonic()
        self._received = 0
        until = now + UNASKED_S
        for job in group:
            job.began = now
            until = until if job.deadline is None else min(until, job.deadline)
        allowed_s = max(until - now, WORTH_KILLING_S)
        cpu_s = self._terms.max_cpu_s if len(group) == 1 else GROUP_CPU_S
        head = GROUP.pack(len(group), allowed_s, min(cpu_s, self._terms.max_cpu_s))
        self._allowed_until = now + allowed_s
        self._gives_up = self._loop.call_later(allowed_s + self._patience_s, self._give_up)
        parts: list[bytes | memoryview] = [head]
        try:
            for job in group:
                parts += request_of(job.picture)
        except Exception:  # who else is waiting must not notice
            log.exception("pictures cannot be sent")
            self._settle([(BROKEN, 0.0, b"")] * len(group))
            return
        self._send(parts)

    def _send(self, parts: list[bytes | memoryview]) -> None:
        """At once, mostly: a transport waits with it until the loop has nothing else to do."""
        try:
            sent = self._decoder.work.sendmsg(parts)
        except OSError:  # full; or it has ended, which the transport will see
            sent = 0
        for number, part in enumerate(parts):
            if sent < len(part):
                self._transport.writelines([memoryview(part)[sent:], *parts[number + 1 :]])
                return
            sent -= len(part)

    def stop(self) -> None:
        """Have no more to do with it; it sees that, and ends."""
        self.stopped = True
        self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        try:
            replies = self._replies()
        except ValueError:
            replies = [(-1, 0.0, b"")] * len(self.group)
        if replies is not None:
            self._settle(replies)

    def eof_received(self) -> None:
        """Closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._gives_up is not None:
            self._gives_up.cancel()
        if not self.ended.done():  # else the pool is closed
            self.ended.set_result(None)

    def _give_up(self) -> None:
        self._gave_up = True
        self._transport.abort()

    # Answers

    def _replies(self) -> list[Reply] | None:
        """Those of the group, once all are there. Raises ValueError: it cannot be one."""
        replies: list[Reply] = []
        at = 0
        for _ in self.group:
            if self._received < at + REPLY.size:
                return None
            kind, forward_s, size = REPLY.unpack_from(self._view, at)
            at += REPLY.size
            if size > max(MAX_TEXT, self._result_bytes):
                raise ValueError
            if self._received < at + size:
                return None
            replies.append((kind, forward_s, self._view[at : at + size]))
            at += size
        if self._received > at:
            raise ValueError
        return replies

    def _settle(self, replies: Sequence[Reply]) -> None:
        ended = time.monotonic()
        group, self.group = self.group, ()
        self._received = 0
        if self._gives_up is not None:
            self._gives_up.cancel()
        took = ended - self._began
        self.served += len(group)
        sharing = sum(kind == DONE for kind, _, _ in replies)
        outcomes = [
            job.context.run(self._outcome, reply, took, len(group), sharing)
            for job, reply in zip(group, replies, strict=True)
        ]
        answers = list(zip(group, outcomes, strict=True))
        results = [each for each in outcomes if isinstance(each, Result)]
        refused = sum(kind in REFUSALS for kind, _, _ in replies)
        if group and len(results) + refused == len(group):
            self._answered(self)
        else:
            self.stop()
        if results and self._terms.network is not None:
            good = [
                job for job, each in zip(group, outcomes, strict=True) if isinstance(each, Result)
            ]
            longest = max(each.forward_s for each in results)
            try:
                self._ran(good, ended - longest, ended)
            except Exception:  # an observer's fault is nobody's answer
                log.exception("a forward could not be counted")
        for job, outcome in answers:
            try:
                job.then(outcome)
            except Exception:  # the others are to be told
                log.exception("an answer could not be handed over")

    def _outcome(self, reply: Reply, took: float, asked: int, sharing: int) -> Outcome:
        """What one reply comes to, of a group of so many, of which some shared the forward."""
        kind, said_s, body = reply
        if kind == DONE and len(body) == self._result_bytes:
            forward_s = min(max(0.0, said_s), took)  # whatever it says
            array = np.frombuffer(bytes(body), self._dtype).reshape(self._shape)
            return Result(array, (took - forward_s) / asked, forward_s, took, sharing)
        text = str(body[:MAX_TEXT], "utf-8", "replace")
        return REFUSALS[kind](text) if kind in REFUSALS else self._fault(kind, text)

    def _fault(self, kind: int, text: str) -> WireError:
        if kind == OUT_OF_MEMORY:
            return self._too_much_memory()
        if kind == NO_ROOM:
            log.warning("a lane ran out of memory")
            return Overloaded("the network found no memory; retry later", reason="device_memory")
        log.error("a picture could not be decoded", extra={"place": text or f"reply {kind}"})
        return InternalError()

    # Its end

    @property
    def begun(self) -> bool:
        """Whether it had begun with what it was last given."""
        return self._decoder.progress[0] != NOT_BEGUN

    @property
    def at_fault(self) -> int:
        """Which of the group it was decoding when it ended; none of them, if that was over."""
        return self._decoder.progress[0]

    def death(self, code: int | None, *, decoding: bool) -> WireError:
        """What to tell the caller whose picture was in a decoder that ended.

        Args:
            decoding: whether it ended over that, and not over the network.
        """
        if self._gave_up or (code == -signal.SIGALRM and time.monotonic() >= self._allowed_until):
            return DeadlineExceeded(EXPIRED)
        if code == EXIT_OUT_OF_MEMORY:
            return self._too_much_memory()
        log.warning("a decoder ended at work", extra={"exit": exit_name(code)})
        if code == -signal.SIGPROF:
            return InvalidImage(
                f"decoding the picture takes more than {self._terms.max_cpu_s:g} s of CPU time "
                "(decoding.max_cpu_s); save it anew, or smaller"
            )
        if code is None or (code < 0 and -code not in CRASHES):  # the kernel short of memory, say
            return Overloaded(ENDED, reason="decoder")
        if code >= 0 or not decoding:
            return InternalError()
        return InvalidImage("the picture breaks its decoder; save it anew")

    def _too_much_memory(self) -> InvalidImage:
        log.warning("a decoder ran out of memory")
        return InvalidImage(
            f"decoding the picture takes more than {self._terms.max_memory_bytes} bytes of memory "
            "(decoding.max_memory_bytes); send it smaller"
        )


def exit_name(code: int | None) -> str:
    """An exit code, by the name of the signal where it is one."""
    return _SIGNAL_NAMES.get(code, str(code))


_SIGNAL_NAMES: Final[dict[int | None, str]] = {-each: each.name for each in signal.Signals}
