"""Code, alerts, their tests, runbooks and the chart say the same.

Metrics, labels and codes come from the code, so that one that is renamed there fails here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from hack.rollout.verdict import Margins
from hack.runbooks import RUNBOOKS, queries
from predictor.errors import ServiceError
from predictor.settings import knobs
from predictor.telemetry.metrics import ALL, FAKE_PROBABILITY, LABELS, REFERENCE, Metric
from tests.alerts import promql
from tests.alerts.promql import Selector

ROOT: Final = Path(__file__).parents[2]
HEADINGS: Final = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
RULES: Final[list[dict[str, Any]]] = [
    rule
    for file in sorted((ROOT / "manifests" / "alerts").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS: Final = sorted({rule["alert"] for rule in RULES if "alert" in rule})
RECORDED: Final = {rule["record"] for rule in RULES if "record" in rule}
UNITS: Final[list[dict[str, Any]]] = [
    test
    for file in sorted((ROOT / "tests" / "alerts").glob("*.yaml"))
    for test in yaml.safe_load(file.read_text("utf-8"))["tests"]
]

# What the Prometheus operator puts on every series of a monitor, and `track`, which ours adds.
ATTACHED: Final = {"namespace", "job", "pod", "track"}
# What is measured by others: how scraping went, Prometheus' client, and kube-state-metrics.
FOREIGN: Final = {
    "up": set(),
    "process_cpu_seconds_total": set(),
    "kube_deployment_status_replicas_available": {"deployment"},
    "kube_deployment_spec_replicas": {"deployment"},
}


def known() -> dict[str, set[str]]:
    """Labels by series."""
    series = {metric.name: set(metric.labels) for metric in ALL if metric.kind != "histogram"}
    for metric in ALL:
        if metric.kind == "histogram":
            series[f"{metric.name}_bucket"] = {*metric.labels, "le"}
            series[f"{metric.name}_sum"] = series[f"{metric.name}_count"] = set(metric.labels)
    recorded = {name: promql_labels(name) for name in RECORDED}
    return {name: labels | ATTACHED for name, labels in {**series, **FOREIGN, **recorded}.items()}


def promql_labels(record: str) -> set[str]:
    """What a recorded series is grouped by."""
    (rule,) = (rule for rule in RULES if rule.get("record") == record)
    return set(promql.read(rule["expr"]).grouped)


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, with where it is."""
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for page in sorted(RUNBOOKS.glob("*.md")):
        for query in queries(page):
            yield page.name, query


def selectors() -> list[tuple[str, Selector]]:
    return [
        (place, selector)
        for place, expression in expressions()
        for selector in promql.read(expression).selectors
    ]


def series_of_tests() -> list[tuple[str, Selector]]:
    return [
        (test["name"], selector)
        for test in UNITS
        for series in test["input_series"]
        for selector in promql.read(series["series"]).selectors
    ]


def metric_of(series: str) -> Metric | None:
    if series == REFERENCE.name:  # its bounds are the histogram's
        return FAKE_PROBABILITY
    return next((m for m in ALL if series in {m.name, f"{m.name}_bucket"}), None)


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


def test_what_is_grouped_by_is_there() -> None:
    """Grouping by a label that no series has joins everything into one."""
    labels = known()
    for place, expression in expressions():
        query = promql.read(expression)
        available = set().union(*(labels[selector.metric] for selector in query.selectors))
        assert query.grouped <= available, place


@pytest.mark.parametrize(
    ("label", "metric"), [("code", "inference_requests_total"), ("reason", None), ("stage", None)]
)
def test_values_that_are_asked_for_exist(label: str, metric: str | None) -> None:
    values = set(re.findall(r"`([^`]+)`", LABELS[label]))
    if label == "code":
        values |= {kind.code for kind in ServiceError.__subclasses__()}
    asked = [
        value for _, s in selectors() if metric in (None, s.metric) for value in s.values(label)
    ]
    assert asked
    assert set(asked) <= values


def test_bounds_that_are_asked_for_are_bounds_of_buckets() -> None:
    for place, selector in (*selectors(), *series_of_tests()):
        for bound in selector.values("le"):
            metric = metric_of(selector.metric)
            assert metric is not None
            assert float(bound) in (*metric.buckets, float("inf")), f"{place}: {bound}"
    assert ["0.25"] in [s.values("le") for _, s in selectors()], "the objective's own"


def test_what_counts_as_failed_is_what_the_code_calls_its_own_fault() -> None:
    ours = {kind.code for kind in ServiceError.__subclasses__()}
    counted = [
        set(selector.values("code"))
        for rule in RULES
        for selector in promql.read(rule["expr"]).selectors
        if rule.get("record", "").startswith("realfake:") and selector.values("code")
    ]
    assert ours in counted
    assert all(codes in (ours, ours | {"OK"}) for codes in counted)


def test_every_reason_to_refuse_is_counted_as_shedding_or_left_out_on_purpose() -> None:
    (rule,) = (rule for rule in RULES if rule.get("alert") == "RealfakeSheddingLoad")
    shed = {v for s in promql.read(rule["expr"]).selectors for v in s.values("reason")}
    reasons = set(re.findall(r"`([^`]+)`", LABELS["reason"]))
    assert reasons - shed == {"rate_limited", "not_ready"}


def test_thresholds_that_follow_from_the_rollout_assistant_do() -> None:
    canary = "".join(rule["expr"] for rule in RULES if rule.get("alert") == "RealfakeCanaryWorse")
    margins = Margins()
    assert f"> {margins.error_increase}\n" in canary
    assert f"> {margins.latency_ratio}\n" in canary
    assert f">= {margins.min_requests}" in canary


def test_tracks_are_those_that_the_monitor_gives() -> None:
    monitor = (ROOT / "charts/realfake/templates/monitor.yaml").read_text("utf-8")
    given = set(re.findall(r"targetLabel: track\n\s+replacement: (\w+)", monitor))
    assert {v for _, s in selectors() for v in s.values("track")} == given == {"stable", "canary"}


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert [page.stem for page in sorted(RUNBOOKS.glob("*.md"))] == ALERTS


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_says_what_it_means_and_what_to_do(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    parts = dict(
        zip(*[iter(re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:])] * 2, strict=True)
    )
    assert list(parts) == HEADINGS
    assert all(len(part.split()) > 10 for part in parts.values())
    assert "kubectl -n $NS " in parts["Diagnosis"]
    assert queries(RUNBOOKS / f"{name}.md")


@pytest.mark.parametrize("name", ALERTS)
def test_what_a_runbook_names_exists(name: str) -> None:
    page = RUNBOOKS / f"{name}.md"
    text = page.read_text("utf-8")
    named = set(
        re.findall(r"\b(?:(?:inference|api_key|kube|process)_[a-z_]+|realfake:[\w:]+)\b", text)
    )
    assert named <= {*known(), *(metric.name for metric in ALL)}
    groups = "|".join({setting.partition(".")[0] for setting in knobs()})
    settings = set(re.findall(rf"`((?:{groups})\.[a-z_]+)`", text))
    in_chart = set(
        re.findall(r"`((?:metrics|networkPolicy|autoscaling|canary)\.[a-zA-Z.]+)`", text)
    )
    assert settings <= {*knobs(), *in_chart}
    documented = (ROOT / "charts/realfake/README.md").read_text("utf-8")
    assert not [value for value in in_chart if f"| `{value}" not in documented]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / link).exists(), link
    for mentioned in re.findall(r"\b(?:docs|manifests)/[\w/.-]+\.(?:md|yaml)", text):
        assert (ROOT / mentioned).exists(), mentioned


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=str)
def test_an_alert_says_who_how_bad_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Realfake([A-Z][a-z0-9]+)+", rule["alert"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"manifests/runbooks/{rule['alert']}.md"
    assert "{{ $labels.namespace }}" in rule["annotations"]["summary"]
    assert "for" in rule


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_shown_to_fire_and_not_to_fire(name: str) -> None:
    checks = [c for unit in UNITS for c in unit["alert_rule_test"] if c["alertname"] == name]
    assert [check for check in checks if check["exp_alerts"]], "fires"
    assert [check for check in checks if not check["exp_alerts"]], "stays silent"
    # Rules of one name differ by a label, and each has to fire somewhere.
    fixed = [rule["labels"] for rule in RULES if rule.get("alert") == name]
    fired = [alert["exp_labels"] for check in checks for alert in check["exp_alerts"]]
    assert all(any(labels.items() <= one.items() for one in fired) for labels in fixed)


def test_the_documentation_lists_every_alert() -> None:
    page = (ROOT / "docs/alerts.md").read_text("utf-8")
    listed = re.findall(
        r"^\| \[`?(\w+)`?\]\(\.\./manifests/runbooks/(\w+)\.md\) \| (\w+)", page, re.M
    )
    severities = {(rule["alert"], rule["labels"]["severity"]) for rule in RULES if "alert" in rule}
    assert {(name, severity) for name, target, severity in listed if name == target} == severities


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
