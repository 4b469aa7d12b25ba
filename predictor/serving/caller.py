"""Whether anybody still waits at the other end of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Caller:
    """One connection's. Of its requests, one is answered at a time."""

    def __init__(self) -> None:
        self.has_hung_up = False
        self._then: Callable[[], None] | None = None

    def hang_up(self) -> None:
        self.has_hung_up = True
        if self._then is not None:
            self._then()

    @contextmanager
    def watched(self, then: Callable[[], None]) -> Iterator[None]:
        """Call `then` when the caller hangs up meanwhile."""
        self._then = then
        try:
            yield
        finally:
            self._then = None
