"""When a measurement has settled, as Triton's perf_analyzer decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hack.load.samples import Window, percentile

WINDOWS: Final = 3
_WITHIN: Final = 0.1


def stable(windows: Sequence[Window]) -> bool:
    """Whether throughput and p99 of each of the last three are within 10 % of their mean."""
    last = windows[-WINDOWS:]
    if len(last) < WINDOWS:
        return False
    waits = [percentile(window.seconds(), 0.99) for window in last]
    known = [wait for wait in waits if wait is not None]
    return len(known) == WINDOWS and _near(known) and _near([one.throughput for one in last])


def _near(values: Sequence[float]) -> bool:
    mean = sum(values) / len(values)
    return all(abs(value - mean) <= _WITHIN * mean for value in values)
