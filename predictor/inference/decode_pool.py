"""Where pictures are decoded, off the event loop. docs/decisions has the why of each mode."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import DeadlineExceeded
from predictor.inference.delivery import EXPIRED
from predictor.inference.pictures import Picture
from predictor.inference.timeline import Timeline


class Result(NamedTuple):
    """What became of a picture, and the seconds that each part of it took.

    Attributes:
        array: what the network sees, uint8 (H, W, 3) or float32 (3, H, W); or its logits,
            float32 (K,), where the pool runs the network as well.
        forward_s: in the network; 0 where it has not been there.
        took_s: in all, with the others of its forward.
        shared_by: pictures in its forward.
    """

    array: NDArray[np.uint8] | NDArray[np.float32]
    decode_s: float
    forward_s: float = 0.0
    took_s: float = 0.0
    shared_by: int = 1


Then: TypeAlias = Callable[[Result | BaseException], None]


@dataclass(slots=True, eq=False)
class Job:
    """One picture to decode.

    Attributes:
        deadline: `time.monotonic()` after which nobody wants the result.
        future: of the answer; once it is done nobody wants the result either.
        context: its request's, for what is logged about it.
        then: called with the result, or the WireError that there is instead, by whoever has it:
            a worker's thread, or the event loop.
        caller: whose turns it uses.
        timeline: its request's.
        began: `time.monotonic()` when a worker was given it; None before.
        tries: decoders that ended while they had it, with others or before it was begun. After
            one it goes alone.
    """

    picture: Picture
    deadline: float | None
    future: asyncio.Future[Any]
    context: Context
    then: Then
    caller: str = ""
    timeline: Timeline | None = None
    began: float | None = None
    tries: int = 0


class DecodePool(ABC):
    """Decodes pictures, so many at a time, callers in turn.

    Attributes:
        workers: pictures decoded at once.
    """

    workers: int

    @property
    @abstractmethod
    def backlog(self) -> int:
        """Pictures that wait for a worker, or are with one."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """False once it has been unable to decode for too long."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue pictures. On the event loop.

        Raises:
            NotReady: the pool is closed.
            Overloaded: it cannot decode now.
        """

    @abstractmethod
    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Take out of the queue what is still in it."""

    @abstractmethod
    def close(self) -> None:
        """Fail what is queued with NotReady; let go of the workers, without waiting for them."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Until no process is left."""


def refuse_expired(deadline: float | None) -> float:
    """Return `time.monotonic()`, or raise DeadlineExceeded when it is past `deadline`."""
    now = time.monotonic()
    if deadline is not None and now >= deadline:
        raise DeadlineExceeded(EXPIRED)
    return now
