"""What is counted under which label, where no server is needed to see it."""

from __future__ import annotations

import asyncio
import time

import pytest

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    NotReady,
    Overloaded,
    RateLimited,
    Unauthenticated,
    WireError,
)
from predictor.inference.observer import CANCELLED, Observer, observed
from predictor.telemetry import metrics as names
from predictor.telemetry.recording import OK, Metrics


def test_definitions_are_whole() -> None:
    """A label without a bound is a label that a client can fill."""
    assert len({metric.name for metric in names.ALL}) == len(names.ALL)
    for metric in names.ALL:
        assert set(metric.labels) <= {*names.LABELS, "outcome"}
        assert "outcome" not in metric.labels or "`outcome` is" in metric.why
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert (metric.kind == "counter") == metric.name.endswith("_total")
    defined = {value for value in vars(names).values() if isinstance(value, names.Metric)}
    assert defined == set(names.ALL), "one that is not listed is not documented"


@pytest.mark.parametrize(
    ("code", "error", "outcome"),
    [
        (OK, None, "ok"),
        (CANCELLED, None, "cancelled"),
        ("UNAUTHENTICATED", Unauthenticated(""), "unauthenticated"),
        ("RATE_LIMITED", RateLimited(""), "rate_limited"),
        ("INVALID_IMAGE", InvalidImage(""), "refused"),
        ("OVERLOADED", Overloaded(""), "failed"),
        ("INTERNAL", InternalError(), "failed"),
    ],
)
def test_what_a_caller_gets_is_told_apart(code: str, error: WireError | None, outcome: str) -> None:
    metrics = Metrics()
    metrics.asked("web", code, error)
    labels = {"key_id": "web", "outcome": outcome}
    assert metrics.registry.get_sample_value("api_key_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("", reason="late"), "late"),
        (Overloaded("", reason="pictures").at("image[3]"), "pictures"),
        (NotReady(""), "not_ready"),
        (InvalidImage(""), None),
        (DeadlineExceeded(""), None),
        (InternalError(), None),
    ],
)
def test_only_what_was_turned_away_is_a_rejection(error: WireError, reason: str | None) -> None:
    metrics = Metrics()
    metrics.ended("v2", error.code, 0.1, error)
    found = [
        sample.labels["reason"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "inference_rejections_total"
    ]
    assert found == ([] if reason is None else [reason])


def test_a_reading_is_taken_at_each_scrape_and_can_be_replaced() -> None:
    metrics, depths = Metrics(), [3]
    metrics.read(names.QUEUE_DEPTH, lambda: 0)
    metrics.read(names.QUEUE_DEPTH, lambda: depths[-1])
    for depth in (3, 5):
        depths.append(depth)
        assert metrics.registry.get_sample_value("inference_queue_depth") == depth


class Notes(Observer):
    def __init__(self) -> None:
        self.unanswered_for: list[tuple[int, str]] = []

    def unanswered(self, pictures: int, code: str) -> None:
        self.unanswered_for.append((pictures, code))


@pytest.mark.parametrize(
    ("error", "left_s", "code"),
    [
        (InvalidImage(""), 60, "INVALID_IMAGE"),
        (asyncio.CancelledError(), 60, "CANCELLED"),
        (asyncio.CancelledError(), 0, "DEADLINE_EXCEEDED"),
        (RuntimeError("secret"), 60, "INTERNAL"),
    ],
)
def test_pictures_without_an_answer_are_reported_and_the_error_goes_on(
    error: BaseException, left_s: float, code: str
) -> None:
    notes = Notes()
    with pytest.raises(type(error)), observed(notes, 4, time.monotonic() + left_s):
        raise error
    assert notes.unanswered_for == [(4, code)]
