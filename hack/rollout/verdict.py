"""Promote, hold or abort: a canary compared with stable over the same window. Pure.

Each check asks whether the canary is worse by more than a margin. Only a 95 % interval that lies
on one side of the margin is an answer; one that holds the margin is a reason to wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from hack.rollout import statistics
from hack.rollout.evidence import ABSTAINED, FAKE, Evidence
from hack.rollout.statistics import Interval


class Decision(StrEnum):
    PROMOTE = "promote"
    HOLD = "hold"
    ABORT = "abort"


class Outcome(IntEnum):
    FINE = 0
    UNSURE = 1
    WORSE = 2


@dataclass(frozen=True)
class Margins:
    """How much worse a canary may be. Shares are fractions of 1."""

    min_requests: int = 500
    error_increase: float = 0.01
    latency_ratio: float = 1.2
    abstain_shift: float = 0.05
    mix_shift: float = 0.05


@dataclass(frozen=True)
class Finding:
    """One check, with the numbers that it rests on."""

    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Verdict:
    decision: Decision
    findings: tuple[Finding, ...]


_P99: Final = 0.99


def decide(stable: Evidence, canary: Evidence, margins: Margins | None = None) -> Verdict:
    """Compare, and say why. One bad check aborts; one unsure check holds."""
    margins = margins or Margins()
    few = _too_few(stable, canary, margins.min_requests)
    if few:
        return Verdict(Decision.HOLD, few)
    findings = (
        _restarts(canary),
        _errors(stable, canary, margins.error_increase),
        _latency(stable, canary, margins.latency_ratio),
        _verdicts("abstained", ABSTAINED, stable, canary, margins.abstain_shift),
        _verdicts("called fake", FAKE, stable, canary, margins.mix_shift),
    )
    worst = max(finding.outcome for finding in findings)
    return Verdict((Decision.PROMOTE, Decision.HOLD, Decision.ABORT)[worst], findings)


def _too_few(stable: Evidence, canary: Evidence, least: int) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            Outcome.UNSURE,
            f"too few requests to decide: {name} has {evidence.served:.0f} of {least}"
            + ("; are its pods scraped?" if not evidence.served else ""),
        )
        for name, evidence in (("stable", stable), ("canary", canary))
        if evidence.served < least
    )


def _restarts(canary: Evidence) -> Finding:
    # A process that ends takes the counts of its errors with it.
    if canary.restarts:
        return Finding(
            Outcome.WORSE, f"restarts: canary processes restarted {canary.restarts:.0f}x"
        )
    return Finding(Outcome.FINE, "restarts: none of the canary")


def _errors(stable: Evidence, canary: Evidence, margin: float) -> Finding:
    interval = statistics.difference(canary.faults, canary.served, stable.faults, stable.served)
    return Finding(
        _against(interval.low, interval.high, margin),
        f"errors: canary {_of(canary.faults, canary.served)},"
        f" stable {_of(stable.faults, stable.served)};"
        f" difference {_points(interval)}, allowed +{margin:.2%}",
    )


def _latency(stable: Evidence, canary: Evidence, ratio: float) -> Finding:
    """Judge the share of slow requests: a p99 itself has no interval, a share has one."""
    before = statistics.quantile(_P99, stable.durations)
    after = statistics.quantile(_P99, canary.durations)
    if math.isnan(before) or math.isnan(after):
        return Finding(Outcome.UNSURE, "p99: no durations are recorded; are they scraped?")
    total = canary.durations[math.inf]
    bounds = [bound for bound in canary.durations if before * ratio <= bound < math.inf]
    said = f"p99: canary {after * 1000:.0f} ms, stable {before * 1000:.0f} ms; "
    if not bounds:
        return Finding(Outcome.UNSURE, f"{said}both are beyond the histogram's last bucket")
    bound = min(bounds)
    slow = statistics.slower_than(bound, canary.durations)
    interval = statistics.share(slow, total)
    return Finding(
        _against(interval.low, interval.high, 1 - _P99),
        f"{said}{_of(slow, total)} of canary slower than {bound * 1000:g} ms"
        f" ({interval.low:.2%} to {interval.high:.2%}), allowed {1 - _P99:.2%}",
    )


def _verdicts(
    said: str, verdict: str, stable: Evidence, canary: Evidence, margin: float
) -> Finding:
    after, before = canary.verdicts.get(verdict, 0.0), stable.verdicts.get(verdict, 0.0)
    interval = statistics.difference(after, canary.judged, before, stable.judged)
    # A shift in either direction: a model that finds fewer fakes is no better for it.
    if interval.low >= -margin and interval.high <= margin:
        outcome = Outcome.FINE
    elif interval.low > margin or interval.high < -margin:
        outcome = Outcome.WORSE
    else:
        outcome = Outcome.UNSURE
    return Finding(
        outcome,
        f"{said}: canary {_of(after, canary.judged)}, stable {_of(before, stable.judged)};"
        f" difference {_points(interval)}, allowed ±{margin:.2%}",
    )


def _against(low: float, high: float, margin: float) -> Outcome:
    if low > margin:
        return Outcome.WORSE
    return Outcome.FINE if high <= margin else Outcome.UNSURE


def _of(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0:.2%} ({part:.0f} of {whole:.0f})"


def _points(interval: Interval) -> str:
    return f"{interval.low:+.2%} to {interval.high:+.2%}"
