"""The times at which one caller's refused requests were told to come back, and who keeps to them.

A place that gets free is taken within the millisecond by whoever was just answered and asks again;
who waited as told finds the house full, every time. So a time that was promised is worth
something when it comes: `Admission` lets as many more in as were promised it, and turns away as
many of those who were not. Nobody has to be recognised for that: who asks at the moment a place
gets free needs no promise.
"""

from __future__ import annotations

import heapq
from typing import Final

_HORIZON_S: Final = 3.0
"""How far ahead refused requests are given times of their own. A client that does not keep to them,
and asks a thousand times a second, must not send away for minutes those that share its key."""
_APART_S: Final = 0.001
"""Shortest time between two promises: they are told to the millisecond."""
_KEPT_S: Final = 0.3
"""How long a promise waits for its caller: a round trip and a timer that is late."""


class Comebacks:
    """One caller's; all moments are `time.monotonic()`. Lives on one event loop."""

    def __init__(self) -> None:
        self._next_free = 0.0
        self._promised: list[float] = []  # a heap: over HTTP, later ones may be due earlier

    def promise(self, now: float, earliest: float, *, apart_s: float, not_before: float) -> float:
        """Return when one more refused request should come back: one after the other, or all would
        come at once, and all but the first be refused again.

        Args:
            earliest: when there will be room.
            apart_s: seconds between this one's time and the next one's.
            not_before: no time before can be told.
        """
        self._forget(now)
        turn = max(earliest, self._next_free)
        last = earliest + _HORIZON_S
        if turn >= last:  # the line is full
            return max(last, not_before)
        self._next_free = min(turn + max(apart_s, _APART_S), last)
        # The line does not move with it: what is before that moment is for who can be told.
        turn = max(turn, not_before)
        heapq.heappush(self._promised, turn)
        return turn

    def keep(self, now: float) -> bool:
        """Whether somebody was promised this moment, and has not come yet; now he has."""
        self._forget(now)
        if not self._promised or self._promised[0] > now:
            return False
        heapq.heappop(self._promised)
        return True

    def _forget(self, now: float) -> None:
        while self._promised and self._promised[0] < now - _KEPT_S:
            heapq.heappop(self._promised)
