"""Every place that asks for series, and what there is to ask for.

Metrics, labels and codes come from the code, so that one that is renamed there is missed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from hack.runbooks import RUNBOOKS, queries
from predictor.errors import ServiceError, WireError
from predictor.telemetry.metrics import (
    ALL,
    FAKE_PROBABILITY,
    IMAGES,
    KEY_REQUESTS,
    LABELS,
    REFERENCE,
    Metric,
)
from tests import grafana
from tests.alerts import promql
from tests.alerts.promql import Selector
from tests.documentation import PAGES, blocks

ROOT: Final = Path(__file__).parents[2]
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
# What is measured by others: how scraping went, the state of alerts, Prometheus' client, and
# kube-state-metrics.
FOREIGN: Final = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "kube_deployment_status_replicas_available": {"deployment"},
    "kube_deployment_spec_replicas": {"deployment"},
}
NAMED: Final = re.compile(r"\b(?:(?:inference|api_key|kube|process)_[a-z_]+|realfake:\w+:\w+)\b")
"""What reads like a series."""


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


def metric_of(series: str) -> Metric | None:
    if series == REFERENCE.name:  # its bounds are the histogram's
        return FAKE_PROBABILITY
    return next((m for m in ALL if series in {m.name, f"{m.name}_bucket"}), None)


def codes() -> set[str]:
    """Every code of the error tree, and the three that are no error of ours to tell."""
    found, pending = {"OK", "CANCELLED", "ABORTED"}, [WireError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        found |= {kind.code} if hasattr(kind, "code") else set()
    return found


def values_of(label: str, metric: Metric | None) -> set[str] | None:
    """What a label can say; None where that is for an installation to choose."""
    if label == "code":
        return codes()
    if label == "outcome" and metric is IMAGES:
        return {"classified", *(code.lower() for code in codes())}
    if label == "outcome" and metric is KEY_REQUESTS:
        return set(re.findall(r"`([a-z_]+)`", metric.why)) - {"outcome"}
    if label in {"protocol", "reason", "stage", "verdict"}:
        return set(re.findall(r"`([^`]+)`", LABELS[label]))
    return None


def own_fault() -> set[str]:
    return {kind.code for kind in ServiceError.__subclasses__()}


def of_rules() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]


def of_runbooks() -> Iterator[tuple[str, str]]:
    for page in sorted(RUNBOOKS.glob("*.md")):
        for query in queries(page):
            yield page.name, query


def of_documentation() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "promql":
                for query in block.code.strip().split("\n\n"):
                    yield block.place, query


def of_dashboards() -> Iterator[tuple[str, str]]:
    for asked in grafana.all_asked():
        yield asked.place, asked.example()


PLACES: Final = {
    "rules": of_rules,
    "runbooks": of_runbooks,
    "documentation": of_documentation,
    "dashboards": of_dashboards,
}


def expressions() -> list[tuple[str, str]]:
    """Every expression, with where it is."""
    return [found for place in PLACES.values() for found in place()]


def selectors() -> list[tuple[str, Selector]]:
    return [
        (place, selector)
        for place, expression in expressions()
        for selector in promql.read(expression).selectors
    ]


def series_of_tests() -> list[tuple[str, Selector]]:
    """What the tests of the rules play back."""
    return [
        (test["name"], selector)
        for test in UNITS
        for series in test["input_series"]
        for selector in promql.read(series["series"]).selectors
    ]
