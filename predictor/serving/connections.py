"""What all HTTP connections share: how many there are, and who makes room for another."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from predictor.settings import LimitSettings

if TYPE_CHECKING:
    from predictor.serving.bounded_http import BoundedHttp

log = logging.getLogger("predictor.connections")

REPORT_EVERY_S: Final = 10.0
SWEEP_EVERY_S: Final = 1.0
FEW: Final = 16
"""For a port that is only probed or scraped: those who do come in ones and twos, and whoever else
comes is to take nothing from inference."""


class Connections:
    """What all HTTP connections share: their number, who is idle for longest, and one clock.

    Args:
        most: connections at once; None for `limits.max_connections`.
    """

    def __init__(self, limits: LimitSettings, most: int | None = None) -> None:
        self.limits = limits
        self._most = most or limits.max_connections
        self.open: set[BoundedHttp] = set()
        self.idle: dict[BoundedHttp, None] = {}
        """Those in which no request is being answered, longest first: nothing was asked, or the
        body of what is answered is still awaited."""
        self._ended: Counter[str] = Counter()
        self._clock: asyncio.TimerHandle | None = None
        self._last_report = 0.0

    def admit(self, connection: BoundedHttp) -> bool:
        """Count a new connection. At the limit the longest idle one makes room for it.

        Returns:
            False when a request is being answered in each of the others.
        """
        room = True
        if len(self.open) >= self._most:
            victim = next(iter(self.idle), None)
            room = victim is not None
            if victim is not None:
                victim.drop("idle_for_longest")
        self.open.add(connection)
        if self._clock is None:
            self._tick(asyncio.get_running_loop())
        return room

    def forget(self, connection: BoundedHttp) -> None:
        self.open.discard(connection)
        self.idle.pop(connection, None)

    def count(self, reason: str) -> None:
        self._ended[reason] += 1

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self.open):
            connection.check(now)
        if self._ended and now - self._last_report >= REPORT_EVERY_S:
            log.warning("connections ended", extra={"reasons": dict(self._ended)})
            self._ended.clear()
            self._last_report = now
        self._clock = None
        if self.open or self._ended:
            interval = min(SWEEP_EVERY_S, self.limits.receive_timeout_s / 4)
            self._clock = loop.call_later(interval, self._tick, loop)
