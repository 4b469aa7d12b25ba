"""Rules, runbooks, documentation and dashboards ask for series, labels and values that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.alerts import promql
from tests.alerts.promql import Selector
from tests.contract.observability import (
    NAMED,
    PLACES,
    known,
    metric_of,
    selectors,
    series_of_tests,
    values_of,
)
from tests.documentation import PAGES, ROOT


@pytest.mark.parametrize("source", [selectors, series_of_tests])
def test_every_metric_and_label_exists(source: Any) -> None:
    """A query for what was renamed finds nothing, and the alert stays silent for ever."""
    labels = known()
    asked = source()
    assert len(asked) > 50, "nothing was looked at"
    for place, selector in asked:
        assert selector.metric in labels, f"{place}: there is no {selector.metric}"
        extra = {name for name, _, _ in selector.matchers} - labels[selector.metric]
        assert not extra, f"{place}: {selector.metric} has no {extra}"


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_grouped_by_is_there(place: Callable[[], Iterator[tuple[str, str]]]) -> None:
    """Grouping by a label that no series has joins everything into one."""
    labels = known()
    asked = list(place())
    assert asked, "nothing was looked at"
    for where, expression in asked:
        query = promql.read(expression)
        available = set().union(*(labels[selector.metric] for selector in query.selectors))
        assert query.grouped <= available, where


def test_values_that_are_asked_for_exist() -> None:
    looked_at = set()
    for place, selector in (*selectors(), *series_of_tests()):
        for label, _, _ in selector.matchers:
            values = values_of(label, metric_of(selector.metric))
            if values is not None:
                looked_at.add(label)
                assert set(selector.values(label)) <= values, f"{place}: {selector}"
    assert looked_at >= {"code", "outcome", "reason", "stage", "verdict"}


def test_bounds_that_are_asked_for_are_bounds_of_buckets() -> None:
    for place, selector in (*selectors(), *series_of_tests()):
        for bound in selector.values("le"):
            metric = metric_of(selector.metric)
            assert metric is not None
            assert float(bound) in (*metric.buckets, float("inf")), f"{place}: {bound}"
    assert ["0.25"] in [s.values("le") for _, s in selectors()], "the objective's own"


@pytest.mark.parametrize("page", PAGES)
def test_what_is_recorded_is_named_as_it_is_recorded(page: str) -> None:
    """Names of metrics themselves are looked at in test_metrics.py, in more places than these."""
    text = (ROOT / page).read_text("utf-8")
    named = {name for name in NAMED.findall(text) if name.startswith("realfake:")}
    assert named <= known().keys()


def test_a_function_that_nobody_has_looked_at_is_refused() -> None:
    with pytest.raises(ValueError, match="absent_over_time"):
        promql.read("absent_over_time(up[5m])")


def test_an_expression_is_taken_apart() -> None:
    query = promql.read(
        'sum by (job, le) (rate(a{code=~"A|B", job!="x"}[5m] offset 1w)) / on (job) b:c > 0.5'
    )
    assert query.selectors == (
        Selector("a", (("code", "=~", "A|B"), ("job", "!=", "x"))),
        Selector("b:c"),
    )
    assert query.selectors[0].values("code") == ["A", "B"]
    assert query.grouped == {"job", "le"}
