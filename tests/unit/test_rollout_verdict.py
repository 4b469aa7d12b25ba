"""Promote, hold or abort: what each difference between canary and stable leads to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.rollout import statistics
from hack.rollout.evidence import FAULTS, Evidence
from hack.rollout.verdict import Decision, Margins, Outcome, decide
from predictor import errors

BOUNDS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0, math.inf)


def durations(fast: float, slow: float, slow_bound: float = 0.5) -> dict[float, float]:
    """Cumulative: `fast` requests below 0.1 s, and `slow` ones in the bucket up to slow_bound."""
    return {
        bound: (fast if bound >= 0.1 else 0.0) + (slow if bound >= slow_bound else 0.0)
        for bound in BOUNDS
    }


def evidence(requests: int = 5000, **changes: object) -> Evidence:
    healthy = Evidence(
        codes={"OK": requests},
        verdicts={"fake": 0.2 * requests, "real": 0.75 * requests, "uncertain": 0.05 * requests},
        durations=durations(requests, 0),
        restarts=0,
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]  # each test names real fields


def test_an_equal_canary_is_promoted() -> None:
    assert decide(evidence(50_000), evidence()).decision is Decision.PROMOTE


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (evidence(codes={"OK": 4800, "INTERNAL": 200}), "errors"),
        (evidence(codes={"OK": 4800, "DEADLINE_EXCEEDED": 200}), "errors"),
        (evidence(durations=durations(4800, 200)), "p99"),
        (evidence(durations=durations(4800, 200, slow_bound=math.inf)), "p99"),
        (evidence(verdicts={"fake": 1000, "real": 3000, "uncertain": 1000}), "abstained"),
        (evidence(verdicts={"fake": 4750, "uncertain": 250}), "called fake"),
        (evidence(verdicts={"real": 4750, "uncertain": 250}), "called fake"),
        (evidence(restarts=1), "restarts"),
    ],
)
def test_a_worse_canary_is_aborted_for_the_right_reason(canary: Evidence, reason: str) -> None:
    verdict = decide(evidence(50_000), canary)
    assert verdict.decision is Decision.ABORT
    worse = [finding.text for finding in verdict.findings if finding.outcome is Outcome.WORSE]
    assert [text.split(":")[0] for text in worse] == [reason]


def test_every_fault_of_the_server_counts_as_an_error() -> None:
    """A code that is added to the predictor and forgotten here would never stop a canary."""
    known = [one for one in vars(errors).values() if isinstance(one, type)]
    wire = [one for one in known if issubclass(one, errors.WireError) and hasattr(one, "code")]
    faults = {one.code for one in wire if one.http_status >= 500}
    assert len(faults) > 3
    assert faults <= FAULTS
    assert not FAULTS & {one.code for one in wire if one.http_status < 500}


@pytest.mark.parametrize(
    ("stable", "canary", "who"),
    [
        (evidence(), evidence(499), "canary has 499 of 500"),
        (evidence(499), evidence(), "stable has 499 of 500"),
        (evidence(), evidence(codes={}), "canary has 0 of 500; are its pods scraped"),
        # However bad it looks, a handful of requests is no evidence.
        (evidence(), evidence(codes={"INTERNAL": 20}), "canary has 20 of 500"),
        # Requests that a client got wrong are no evidence either.
        (evidence(), evidence(codes={"OK": 10, "INVALID_IMAGE": 5000}), "canary has 10 of 500"),
    ],
)
def test_too_few_requests_decide_nothing(stable: Evidence, canary: Evidence, who: str) -> None:
    verdict = decide(stable, canary)
    assert verdict.decision is Decision.HOLD
    assert who in verdict.findings[0].text


def test_a_difference_within_the_noise_is_held() -> None:
    """8 errors in 600 may be bad luck or a broken build: neither answer is earned yet."""
    canary = evidence(600, codes={"OK": 592, "INTERNAL": 8})
    verdict = decide(evidence(50_000), canary)
    assert verdict.decision is Decision.HOLD
    assert "8 of 600" in " ".join(finding.text for finding in verdict.findings)


def test_the_same_shares_are_clear_with_more_requests() -> None:
    canary = evidence(60_000, codes={"OK": 58_800, "INTERNAL": 1200})
    assert decide(evidence(50_000), canary).decision is Decision.ABORT


def test_errors_that_stable_has_too_are_not_held_against_the_canary() -> None:
    broken_dependency = {"OK": 4500, "INTERNAL": 500}
    verdict = decide(
        evidence(codes={"OK": 45_000, "INTERNAL": 5000}), evidence(codes=broken_dependency)
    )
    assert verdict.decision is not Decision.ABORT


def test_a_wanted_shift_can_be_allowed() -> None:
    canary = evidence(verdicts={"fake": 1500, "real": 3250, "uncertain": 250})
    assert decide(evidence(), canary).decision is Decision.ABORT
    assert decide(evidence(), canary, Margins(mix_shift=0.2)).decision is Decision.PROMOTE


def test_missing_durations_are_no_proof_of_speed() -> None:
    verdict = decide(evidence(), evidence(durations={}))
    assert verdict.decision is Decision.HOLD


def test_latency_beyond_the_last_bucket_is_not_called_fine() -> None:
    slow = evidence(durations=durations(0, 5000, slow_bound=math.inf))
    assert decide(slow, slow).decision is Decision.HOLD


COUNTS = st.integers(0, 100_000)


@given(part=COUNTS, rest=COUNTS, part0=COUNTS, rest0=COUNTS)
def test_a_difference_has_its_estimate_inside_and_turns_with_its_sides(
    part: int, rest: int, part0: int, rest0: int
) -> None:
    whole, whole0 = part + rest, part0 + rest0
    one = statistics.difference(part, whole, part0, whole0)
    other = statistics.difference(part0, whole0, part, whole)
    assert one.low == pytest.approx(-other.high)
    if whole and whole0:
        assert one.low - 1e-9 <= part / whole - part0 / whole0 <= one.high + 1e-9
    assert -1 - 1e-9 <= one.low <= one.high <= 1 + 1e-9


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    part: int, whole: int, low: float, high: float
) -> None:
    assert statistics.share(part, whole) == pytest.approx((low, high), abs=5e-5)


def test_newcombes_interval_is_the_published_one() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10, example (a).
    interval = statistics.difference(56, 70, 48, 80)
    assert interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
