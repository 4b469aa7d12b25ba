"""Intervals for shares and their differences, and quantiles of a histogram. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

Z: Final = 1.96  # 95 %, two-sided


class Interval(NamedTuple):
    """Where the truth lies, with 95 % confidence."""

    low: float
    high: float


def share(part: float, whole: float) -> Interval:
    """Wilson's interval for a share: it also holds for rare events, where p ± 2 sigma does not."""
    if whole <= 0:
        return Interval(0.0, 1.0)
    p = min(part / whole, 1.0)
    z2 = Z * Z / whole
    middle = (p + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def difference(part: float, whole: float, part0: float, whole0: float) -> Interval:
    """Newcombe's interval for share minus share0."""
    if whole <= 0 or whole0 <= 0:
        return Interval(-1.0, 1.0)
    p, p0 = min(part / whole, 1.0), min(part0 / whole0, 1.0)
    one, zero = share(part, whole), share(part0, whole0)
    return Interval(
        p - p0 - math.hypot(p - one.low, zero.high - p0),
        p - p0 + math.hypot(one.high - p, p0 - zero.low),
    )


def quantile(q: float, buckets: Mapping[float, float]) -> float:
    """As PromQL's histogram_quantile: linear inside a bucket, the last bound for what is beyond.

    Args:
        q: 0 to 1.
        buckets: cumulative counts by upper bound, +Inf included.

    Returns:
        NaN when nothing was observed.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return math.nan
    rank = q * total
    low, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (count - below or 1)
        low, below = bound, count
    return low


def slower_than(bound: float, buckets: Mapping[float, float]) -> float:
    """How many observations are above a bound that the histogram has."""
    return buckets[math.inf] - buckets[bound]
