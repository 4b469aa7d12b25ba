"""Who wants to know how pictures fare on their way: metrics, in the product."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from predictor.errors import DeadlineExceeded, InternalError, WireError
from predictor.inference.delivery import is_late
from predictor.inference.pictures import Classification
from predictor.inference.timeline import Timeline

CANCELLED = "CANCELLED"
"""Nobody waited for the answer any more."""


class Observer:
    """Nobody in particular. Each method must be quick, and must not raise."""

    def decoded(self, seconds: float) -> None:
        """One picture was decoded, in a worker's `seconds`. Called by whoever decoded it: a
        thread, or the event loop for a process."""

    def waited(self, seconds: Sequence[float]) -> None:
        """Pictures left the queue for a lane. Called in the lane's thread, or on the
        event loop, for a lane that is a process, with the answer."""

    def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
        """A forward succeeded. Called in the lane's thread, or on the event loop, before anybody
        is answered.

        Args:
            pictures: of each picture in it, its request's; one request may be there several times.
            began, ended: `time.monotonic()`.
        """

    def classified(self, results: Sequence[Classification]) -> None:
        """All pictures of a request got an answer."""

    def unanswered(self, pictures: int, code: str) -> None:
        """None of a request's pictures got one; `code` is the error's, or CANCELLED."""


class Observers(Observer):
    """Several, as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def decoded(self, seconds: float) -> None:
        for observer in self._observers:
            observer.decoded(seconds)

    def waited(self, seconds: Sequence[float]) -> None:
        for observer in self._observers:
            observer.waited(seconds)

    def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
        for observer in self._observers:
            observer.forwarded(pictures, began, ended)

    def classified(self, results: Sequence[Classification]) -> None:
        for observer in self._observers:
            observer.classified(results)

    def unanswered(self, pictures: int, code: str) -> None:
        for observer in self._observers:
            observer.unanswered(pictures, code)


@contextmanager
def observed(observer: Observer, pictures: int, deadline: float | None) -> Iterator[None]:
    """Report the pictures of one request when it fails or is cancelled."""
    try:
        yield
    except WireError as error:
        observer.unanswered(pictures, error.code)
        raise
    except asyncio.CancelledError:
        observer.unanswered(pictures, DeadlineExceeded.code if is_late(deadline) else CANCELLED)
        raise
    except Exception:
        observer.unanswered(pictures, InternalError.code)
        raise
