"""Pictures that wait for the network, and how their answers reach those who wait for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import DeadlineExceeded, InternalError, WireError
from predictor.inference.engine import EngineInput
from predictor.inference.timeline import Stage, Timeline

log = logging.getLogger("predictor.batcher")

Logits: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = tuple[str, tuple[int, ...]]
"""The dtype, as its one character, and the shape: what may share a forward."""

STOPPED = "the server is stopping; retry on another replica"
EXPIRED = "the deadline passed before the picture was classified"
EARLY_S: Final = 0.01
"""How long before a deadline its timers may go off: an event loop's counts whole milliseconds, and
the caller's own runs on another clock."""


def is_late(deadline: float | None) -> bool:
    """Whether a request that ends now, without an answer, ends because its time is over."""
    return deadline is not None and time.monotonic() >= deadline - EARLY_S


@dataclass(slots=True, eq=False)
class Item:
    """One picture on its way. Only its own future knows whether anybody still waits.

    Attributes:
        caller: whose turns it uses.
        context: its request's, for what is logged about it.
        announced: whether batches may still wait for it; read and written under the batcher's lock.
        array, kind: what the network sees; not there before it arrives.
        arrived: when it came into the queue; None before.
        taken: when a lane took it out of the queue; None before.
        decoded: when it was decoded in its lane; None before, and where decoding comes first.
        answered: when the network was done with it; None before.
    """

    caller: str
    deadline: float | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Logits]
    timeline: Timeline
    context: Context
    announced: bool = True
    array: EngineInput = field(init=False)
    kind: Kind = field(init=False)
    arrived: float | None = None
    taken: float | None = None
    decoded: float | None = None
    answered: float | None = None

    def wanted(self, now: float) -> bool:
        return not self.future.done() and (self.deadline is None or now < self.deadline)


Outcome: TypeAlias = tuple[Item, Logits | BaseException]


Passed: TypeAlias = Sequence[tuple[Stage, Callable[[Item], float | None]]]
"""The stages that pictures pass, in order, and when one of them came there."""


@contextmanager
def on_their_way(
    count: int, caller: str, deadline: float | None, timeline: Timeline, passed: Passed
) -> Iterator[list[Item]]:
    """The pictures of one request, until all are answered, by `answers_of`, or nobody waits.

    Args:
        deadline: `time.monotonic()` after which nobody wants the answer; then they fail.
        timeline: the request's; it learns how far all of its pictures got.
    """
    loop = asyncio.get_running_loop()
    items = [
        # A context each: two threads cannot be in one at the same time.
        Item(caller, deadline, loop, loop.create_future(), timeline, copy_context())
        for _ in range(count)
    ]
    timer = None
    if deadline is not None:
        timer = loop.call_at(loop.time() + deadline - time.monotonic(), expire, items)
    try:
        yield items
    finally:
        if timer is not None:
            timer.cancel()
        let_go(items)
        for stage, moment_of in passed:
            moments = [moment for moment in map(moment_of, items) if moment is not None]
            if not moments or len(moments) < len(items):
                break
            timeline.enter(stage, max(moments))


def outcomes_of(group: list[Item], logits: Logits) -> list[Outcome]:
    if logits.ndim != 2 or len(logits) != len(group):
        raise ValueError(f"engine answered {logits.shape} for {len(group)} pictures")
    if np.isfinite(logits).all():
        return list(zip(group, logits, strict=True))
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(logits), axis=1)
    log.error("the network answered NaN or infinity", extra={"count": int((~finite).sum())})
    return [
        (item, row if good else InternalError())
        for item, row, good in zip(group, logits, finite, strict=True)
    ]


def deliver(outcomes: Sequence[Outcome]) -> None:
    """Hand answers over to the event loops they belong to, one wake-up for each."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(settle, group)
        except RuntimeError:  # the loop is closed: nobody is left to answer
            log.warning("answers without a loop", extra={"count": len(group)})


async def answers_of(items: Sequence[Item]) -> list[Logits]:
    """Wait for all pictures of a request; when cancelled, cancel what they wait for.

    Raises:
        WireError: of the first picture, in order, that failed; with its place (``image[3]``) where
            there are several.
    """
    answers: list[Logits] = []
    try:
        for index, item in enumerate(items):
            try:
                answers.append(await item.future)
            except WireError as error:
                raise (error.at(f"image[{index}]") if len(items) > 1 else error) from None
    except (WireError, asyncio.CancelledError):
        for item in items:  # the others are not worth a decoder's or the device's time any more
            item.future.cancel()
        raise
    return answers


def let_go(items: Sequence[Item]) -> None:
    """Nobody waits any more; asyncio need not log that nobody looked at what failed."""
    for item in items:
        if item.future.done() and not item.future.cancelled():
            item.future.exception()


def settle(outcomes: Sequence[Outcome]) -> None:
    """Hand answers over, on their event loop."""
    for item, outcome in outcomes:
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)


def expire(items: Sequence[Item]) -> None:
    settle([(item, DeadlineExceeded(EXPIRED)) for item in items])
