"""Who wants to know how pictures fare on their way: metrics, in the product."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from predictor.errors import InternalError, WireError
from predictor.inference.pictures import Classification

CANCELLED = "CANCELLED"
"""Nobody waited for the answer any more."""


class Observer:
    """Nobody in particular. Each method must be quick, and must not raise."""

    def decoded(self, seconds: float) -> None:
        """One picture was decoded, in a worker's `seconds`."""

    def waited(self, seconds: Sequence[float]) -> None:
        """Pictures left the queue for a lane. Called in the lane's thread."""

    def forwarded(self, pictures: int, seconds: float) -> None:
        """A forward succeeded. Called in the lane's thread."""

    def classified(self, results: Sequence[Classification]) -> None:
        """All pictures of a request got an answer."""

    def unanswered(self, pictures: int, code: str) -> None:
        """None of a request's pictures got one; `code` is the error's, or CANCELLED."""


@contextmanager
def observed(observer: Observer, pictures: int) -> Iterator[None]:
    """Report the pictures of one request when it fails."""
    try:
        yield
    except WireError as error:
        observer.unanswered(pictures, error.code)
        raise
    except asyncio.CancelledError:
        observer.unanswered(pictures, CANCELLED)
        raise
    except Exception:
        observer.unanswered(pictures, InternalError.code)
        raise
