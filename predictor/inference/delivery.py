"""Pictures that wait for the network, and how their answers reach those who wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import DeadlineExceeded, InternalError, WireError
from predictor.inference.engine import EngineInput
from predictor.inference.timeline import Timeline

log = logging.getLogger("predictor.batcher")

Logits: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = tuple[str, tuple[int, ...]]
"""The dtype, as its one character, and the shape: what may share a forward."""

EXPIRED = "the deadline passed before the picture was classified"


@dataclass(slots=True, eq=False)
class Item:
    """One picture on its way. Only its own future knows whether anybody still waits.

    Attributes:
        context: its request's, for what is logged about it.
        taken: when a lane took it out of the queue; None before.
        answered: when the network was done with it; None before.
    """

    array: EngineInput
    kind: Kind
    deadline: float | None
    arrived: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Logits]
    timeline: Timeline
    context: Context
    taken: float | None = None
    answered: float | None = None

    def wanted(self, now: float) -> bool:
        return not self.future.done() and (self.deadline is None or now < self.deadline)


Outcome: TypeAlias = tuple[Item, Logits | WireError]


def note_passage(items: Sequence[Item], timeline: Timeline) -> None:
    """Tell a request's timeline how far its pictures got: all of them, or it is still there."""
    taken = [item.taken for item in items if item.taken is not None]
    answered = [item.answered for item in items if item.answered is not None]
    if taken and len(taken) == len(items):
        timeline.enter("forward", max(taken))
        if len(answered) == len(items):
            timeline.enter("encode", max(answered))


def outcomes_of(group: list[Item], logits: Logits) -> list[Outcome]:
    if logits.ndim != 2 or len(logits) != len(group):
        raise ValueError(f"engine answered {logits.shape} for {len(group)} pictures")
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(logits), axis=1)
    if not finite.all():
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
            loop.call_soon_threadsafe(_settle, group)
        except RuntimeError:  # the loop is closed: nobody is left to answer
            log.warning("answers without a loop", extra={"count": len(group)})


async def settled(futures: Sequence[asyncio.Future[Logits]]) -> list[Logits | BaseException]:
    """Wait for all; when cancelled, cancel them."""
    if len(futures) != 1:
        return await asyncio.gather(*futures, return_exceptions=True)
    try:  # nearly always one, and `gather` would add 0.03 ms
        return [await futures[0]]
    except WireError as error:
        return [error]


def _settle(outcomes: Sequence[Outcome]) -> None:
    for item, outcome in outcomes:
        if item.future.done():
            continue
        if isinstance(outcome, WireError):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)


def expire(items: Sequence[Item]) -> None:
    _settle([(item, DeadlineExceeded(EXPIRED)) for item in items])
