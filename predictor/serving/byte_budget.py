"""The memory that all requests in flight may hold together, over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from predictor.errors import Overloaded


class ByteBudget:
    """Lives on the event loop, so it needs no lock.

    Args:
        limit: most bytes held at once (`limits.max_bytes_in_flight`).
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """One request's part, nothing at first, given back whole at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held -= hold.size

    def take(self, size: int) -> None:
        """Raises Overloaded: `size` more bytes are not to be had."""
        if self.held + size > self._limit:
            raise Overloaded(
                "the requests in flight hold all the memory they may (limits.max_bytes_in_flight); "
                "retry later",
                reason="bytes",
            )
        self.held += size


class Hold:
    """What one request holds."""

    def __init__(self, budget: ByteBudget) -> None:
        self.size = 0
        self._budget = budget

    def cover(self, size: int) -> None:
        """Hold at least `size` bytes in all.

        Raises:
            Overloaded: there are not so many left.
        """
        if size > self.size:
            self._budget.take(size - self.size)
            self.size = size
