"""The times at which one caller's refused requests were told to come back, and who keeps to them.

A place that gets free is taken within the millisecond by whoever was just answered and asks again;
who waited as told finds the house full, every time. So a time that was promised is worth
something when it comes: `Admission` lets as many more in as were promised it, and turns away as
many of those who were not. Nobody has to be recognised for that: who asks at the moment a place
gets free needs no promise.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
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
        self._promised: list[float] = []  # in order

    def promise(self, now: float, earliest: float, *, apart_s: float, step_s: float) -> float:
        """Return when one more refused request should come back: one after the other, or all would
        come at once, and all but the first be refused again.

        Args:
            earliest: when there will be room.
            apart_s: seconds between this one's time and the next one's.
            step_s: what the caller is told is rounded up to multiples of this, counted from `now`;
                0 where it is not.
        """
        self._forget(now)
        apart_s = max(apart_s, _APART_S)
        turn, last = max(earliest, self._next_free), earliest + _HORIZON_S
        if turn >= last:  # the line is full
            return max(last, now + step_s)
        self._next_free = turn + min(apart_s, _HORIZON_S)
        # The line does not move with it: what is before that moment is for who can be told.
        turn = self._in_steps(now, earliest, apart_s, step_s) or max(turn, now + step_s)
        insort(self._promised, turn)
        return turn

    def _in_steps(self, now: float, earliest: float, apart_s: float, step_s: float) -> float | None:
        """The first time that nobody was promised of those that need no rounding. There are few,
        but other ones for each moment of refusal; those refused at once cannot all have one."""
        if not step_s:
            return None
        first = max(1, math.ceil((earliest - now) / step_s))
        for step in range(first, first + math.floor(_HORIZON_S / step_s)):
            turn = now + step * step_s
            place = bisect_left(self._promised, turn - apart_s)
            if place == len(self._promised) or self._promised[place] >= turn + apart_s:
                return turn
        return None

    def keep(self, now: float) -> bool:
        """Whether somebody was promised this moment, and has not come yet; now he has."""
        self._forget(now)
        if not self._promised or self._promised[0] > now:
            return False
        del self._promised[0]
        return True

    def _forget(self, now: float) -> None:
        del self._promised[: bisect_left(self._promised, now - _KEPT_S)]
