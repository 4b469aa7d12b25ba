"""The memory that all requests in flight may hold together, over both protocols."""

from __future__ import annotations

from predictor.errors import Overloaded
from predictor.inference.places import Places


class ByteBudget:
    """Shared between callers as `Places` are. Lives on the event loop, so it needs no lock.

    Args:
        limit: most bytes held at once (`limits.max_bytes_in_flight`).
    """

    def __init__(self, limit: int) -> None:
        self._bytes = Places(limit)

    @property
    def held(self) -> int:
        return self._bytes.taken

    def hold(self, caller: str | None = None) -> Hold:
        """One request's part, for a `with`; nothing at first.

        Args:
            caller: whose share it is; None where callers are not told apart.
        """
        return Hold(self._bytes, caller)


class Hold:
    """What one request holds, given back whole at the end."""

    def __init__(self, budget: Places, caller: str | None) -> None:
        self.size = 0
        self._budget = budget
        self._caller = caller

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.give_back(self._caller, self.size)

    def cover(self, size: int) -> None:
        """Hold at least `size` bytes in all.

        Raises:
            Overloaded: there are not so many left, or not for this caller.
        """
        if size <= self.size:
            return
        if not self._budget.take(self._caller, size - self.size, begun=self.size):
            raise Overloaded(
                "the requests in flight hold all the memory they may (limits.max_bytes_in_flight); "
                "retry later",
                reason="bytes",
            )
        self.size = size
