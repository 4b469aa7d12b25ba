"""Rules, their tests, runbooks, the page on them and the chart say the same."""

from __future__ import annotations

import re
import subprocess
from typing import Any, Final

import pytest

from hack.rollout.verdict import Margins
from hack.runbooks import RUNBOOKS, queries
from predictor.settings import knobs
from predictor.telemetry.metrics import ALL, LABELS
from tests.alerts import promql
from tests.contract.observability import (
    ALERTS,
    NAMED,
    ROOT,
    RULES,
    UNITS,
    known,
    own_fault,
    selectors,
)

HEADINGS: Final = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_what_counts_as_failed_is_what_the_code_calls_its_own_fault() -> None:
    ours = own_fault()
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
    assert set(NAMED.findall(text)) <= {*known(), *(metric.name for metric in ALL)}
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


def commands(name: str) -> list[str]:
    text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_finds_the_service_by_the_job_of_its_alert(name: str) -> None:
    """The chart's PodMonitor, of Knative, gives another job than its ServiceMonitor."""
    jobs = {
        "realfake-predictor": "realfake",
        "realfake-canary-predictor": "realfake-canary",
        "vision/realfake": "realfake",
    }
    for block in commands(name):
        if "$NAME" not in block:
            continue
        head, found, *_ = block.splitlines()
        for job, service in jobs.items():
            assert "JOB=realfake-predictor " in head
            script = f"{head.replace('JOB=realfake-predictor', f'JOB={job}')}\n{found}\necho $NAME"
            done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
            assert done.stdout.strip() == service


@pytest.mark.parametrize("name", ALERTS)
def test_the_commands_of_a_runbook_hold_wherever_its_alert_fires(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    for block in commands(name):
        subprocess.run(["sh", "-n", "-c", block], check=True)
        # Started at once, it finds a port-forward that does not listen yet.
        assert not re.search(r"port-forward .*& *curl", block)
    # Knative's Deployments are called after revisions; these two alerts are of Standard mode only.
    if name not in {"RealfakeCanaryWorse", "RealfakeMetricsMissing"}:
        assert not re.search(r"deploy[/ ]\$NAME", text)
    # `nameOverride` gives the service another name than the release.
    assert not re.search(r"helm .*\$NAME", text)
    assert ("$RELEASE" in text) is ("RELEASE=$(kubectl " in text)


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
