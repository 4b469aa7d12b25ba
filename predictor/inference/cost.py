"""What a forward costs by batch size, learned from every forward that runs."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Final

_MEMORY: Final = 0.2
"""Weight of the newest forward in the mean of its size: ten forwards forget nine tenths."""


class CostCurve:
    """Seconds by batch size, between the sizes that were seen by straight lines.

    Safe for threads: a reader sees the curve before or after an observation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the power of two at or above the size: (mean size, mean seconds).
        self._points: dict[int, tuple[float, float]] = {}
        self._sorted: tuple[tuple[float, float], ...] = ()

    def observe(self, size: int, seconds: float) -> None:
        bucket = (size - 1).bit_length()
        with self._lock:
            known_size, known_seconds = self._points.get(bucket, (float(size), seconds))
            self._points[bucket] = (
                known_size + _MEMORY * (size - known_size),
                known_seconds + _MEMORY * (seconds - known_seconds),
            )
            self._sorted = tuple(sorted(self._points.values()))

    def seconds(self, size: int) -> float:
        """Expected seconds of one forward of `size` pictures; 0 before any was seen."""
        points = self._sorted
        if not points:
            return 0.0
        smallest, cost = points[0]
        if size <= smallest:
            return cost
        for (below, low), (above, high) in pairwise(points):
            if size <= above:
                return low + (high - low) * (size - below) / (above - below)
        largest, cost = points[-1]
        return cost * size / largest
