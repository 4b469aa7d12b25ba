"""Whether anybody still waits at the other end of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Peer:
    """One connection's. Of its requests, one is answered at a time.

    Args:
        listen: have the connection read on: who is not listened to cannot be heard to hang up.
    """

    def __init__(self, listen: Callable[[], None]) -> None:
        self.has_hung_up = False
        self._listen = listen
        self._then: Callable[[], object] | None = None

    def hang_up(self) -> None:
        self.has_hung_up = True
        if self._then is not None:
            self._then()

    @contextmanager
    def watched(self, then: Callable[[], object]) -> Iterator[None]:
        """Call `then` when the peer hangs up meanwhile."""
        self._then = then
        self._listen()
        try:
            yield
        finally:
            self._then = None
