"""The dashboard is what its description says, shows every metric, and leads to every runbook."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from typing import Any, Final

import pytest

from hack.dashboards import style
from hack.dashboards.promql import COUNTED, FAILED, series
from hack.dashboards.variables import NAME_OF_JOB
from predictor.telemetry.metrics import ALL, IMAGES, KEY_REQUESTS, REQUESTS, STAGE
from tests import grafana
from tests.alerts import promql
from tests.contract.observability import (
    ALERTS,
    ROOT,
    RULES,
    codes,
    known,
    metric_of,
    own_fault,
    values_of,
)

UNSHOWN: Final[dict[str, str]] = {}
"""Metrics on no panel, each with the reason."""


def test_it_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.generate_dashboards", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_is_on_a_panel() -> None:
    """What nobody sees is paid for and not used."""
    asked = {
        re.sub("_(bucket|sum|count)$", "", selector.metric)
        for one in grafana.of_panels()
        for selector in promql.read(one.example()).selectors
    }
    shown = {metric.name for metric in ALL} & asked
    assert {metric.name for metric in ALL} - shown == UNSHOWN.keys()


def test_every_runbook_is_linked_and_every_link_leads_to_one() -> None:
    linked = {
        page
        for panel in grafana.panels()
        for link in panel["links"]
        for page in re.findall(r"^\$\{runbooks:raw\}/(\w+)\.md$", link["url"])
    }
    assert linked == set(ALERTS)
    # In the table of alerts each row leads to its own.
    (table,) = (panel for panel in grafana.panels() if not panel["links"])
    assert table["title"] == "Alerts"
    (cell,) = table["fieldConfig"]["overrides"][0]["properties"][0]["value"]
    assert cell["url"] == "${runbooks:raw}/${__value.raw}.md"


@pytest.mark.parametrize("panel", grafana.panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_says_how_to_read_it(panel: dict[str, Any]) -> None:
    assert len(panel["description"].split()) > 7
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] if panel["type"] != "heatmap" else panel["options"]["yAxis"]["unit"]
    assert defaults["noValue"], "an empty panel reads like a broken one"
    assert panel["datasource"]["uid"] == "${datasource}"
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_rows_are_questions_and_panels_have_a_place_of_their_own() -> None:
    assert all(row["title"].endswith("?") for row in grafana.rows())
    for dashboard in grafana.dashboards().values():
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(numbers) == len(set(numbers))
        places = [panel["gridPos"] for panel in dashboard["panels"]]
        for one, other in itertools.combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or below, (one, other)


def test_addresses_of_dashboards_stay() -> None:
    """Bookmarks and links hold the uid."""
    assert {name: one["uid"] for name, one in grafana.dashboards().items()} == {
        "realfake-overview.json": "realfake-overview"
    }


def test_legends_name_labels_that_the_answer_has() -> None:
    labels = known()
    for asked in grafana.of_panels() + grafana.of_annotations():
        query = promql.read(asked.example())
        left = query.grouped or set().union(*(labels[s.metric] for s in query.selectors))
        named = set(re.findall(r"\{\{(\w+)\}\}", asked.legend))
        assert named <= left, asked


def test_every_query_keeps_to_the_chosen_service() -> None:
    """One that forgets it shows the neighbour's numbers."""
    for asked in grafana.of_panels() + grafana.of_annotations():
        for selector in promql.read(asked.expr).selectors:
            chosen = {label: value for label, _, value in selector.matchers}
            assert chosen["namespace"] == "$namespace", asked
            assert "$service" in chosen["job"], asked
            metric = metric_of(selector.metric)
            if metric is not None and "model_version" in metric.labels:
                assert chosen["model_version"] == "$model_version", asked


def test_a_service_is_its_stable_part_and_its_canary() -> None:
    """What the variable holds of a job finds that job again, and the canary's."""
    pattern = re.compile(NAME_OF_JOB.strip("/"))
    (job,) = {
        value
        for asked in grafana.of_panels()
        for selector in promql.read(asked.expr).selectors
        for label, _, value in selector.matchers
        if label == "job"
    }
    for name, jobs in {
        "demo": ["demo-predictor", "demo-canary-predictor"],
        "vision/demo": ["vision/demo"],
        "predictor": ["predictor"],
    }.items():
        for one in jobs:
            found = pattern.search(one)
            assert found is not None
            assert found[1] == name
            asked = grafana.interpolated(job, {"service": [name]}).replace("\\\\", "\\")
            assert re.fullmatch(asked, one)
            assert not re.fullmatch(asked, f"other-{one}")


def test_colours_are_of_values_that_exist() -> None:
    assert style.VERDICTS.keys() == values_of("verdict", None)
    assert style.CODES.keys() <= codes()
    assert style.OUTCOMES.keys() <= (values_of("outcome", IMAGES) or set())
    assert style.KEY_OUTCOMES.keys() == values_of("outcome", KEY_REQUESTS)
    assert {*FAILED} == own_fault() == {*COUNTED} - {"OK"}


def test_lines_are_where_alerts_begin() -> None:
    written = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
    fast = next(r["expr"] for r in RULES if r.get("alert") == "RealfakeErrorBudgetBurnFast")
    assert f"> {style.BURN_FAST} * {1 - style.AVAILABILITY:.3f}" in fast
    slow = next(r["expr"] for r in RULES if r.get("alert") == "RealfakeLatencyBudgetBurnFast")
    assert f"> {style.BURN_FAST} * {1 - style.IN_TIME:.2f}" in slow
    assert re.search(rf"> {style.QUEUE}$", written["RealfakeQueueNearFull"].strip())
    assert re.search(rf"> {style.LAG_S}$", written["RealfakeEventLoopLag"].strip())
    assert f"> {style.DRIFT}\n" in written["RealfakeScoreDrift"]
    days = re.findall(
        r"< (\d+) \* 24 \* 3600",
        "".join(r["expr"] for r in RULES if r.get("alert") == "RealfakeCertificateExpiring"),
    )
    assert sorted(map(int, days)) == sorted(style.CERTIFICATE_DAYS)


def test_a_label_or_part_that_is_gone_stops_the_generator() -> None:
    with pytest.raises(ValueError, match="colour"):
        series(REQUESTS, colour="red")
    with pytest.raises(ValueError, match="inference_stage_duration_seconds"):
        series(STAGE)
    with pytest.raises(ValueError, match="_bucket"):
        series(REQUESTS, "_bucket")


def test_the_documentation_answers_for_every_row() -> None:
    page = (ROOT / "docs/dashboards.md").read_text("utf-8")
    listed = re.findall(r"^\| (.+?\?) \|", page, re.MULTILINE)
    assert listed == [row["title"] for row in grafana.rows()]
