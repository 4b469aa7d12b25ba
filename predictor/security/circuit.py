"""Leave a failing service alone."""

from __future__ import annotations

import time


class Circuit:
    """After a failure one caller in each `rest_s` seconds tries again; the others need not wait.

    Lives on the event loop, so it needs no lock.
    """

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._next_try: float | None = None

    def may_try(self) -> bool:
        """Whether this caller is to try. Follow it with `failed` or `succeeded`."""
        if self._next_try is None:
            return True
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + self._rest_s
        return True

    def failed(self) -> bool:
        """Note a failure. True when it is news."""
        news = self._next_try is None
        self._next_try = time.monotonic() + self._rest_s
        return news

    def succeeded(self) -> bool:
        """Note a success. True when it ends a failure."""
        news = self._next_try is not None
        self._next_try = None
        return news
