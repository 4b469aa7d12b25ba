"""Dashboards reach Grafana's sidecar as they are in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import (
    LEAST,
    NAME,
    ROOT,
    chart_with,
    merged,
    render,
    render_exactly,
)


def test_dashboards_are_passed_on_as_they_are(tmp_path: Path) -> None:
    text = '{"title": "realfake", "expr": "{{ not a template }}", "n": 33554432}\n'
    chart = chart_with(tmp_path, {"dashboards/service.json": text})
    values = merged(LEAST, {"dashboards": {"enabled": True}})
    found = render_exactly(values, chart=chart).one("ConfigMap", f"{NAME}-service")
    assert found["data"] == {"service.json": text}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def dashboards(**values: Any) -> dict[str, Any]:
    """The ConfigMap of the overview, with these values below `dashboards`."""
    runbooks = {"alerts": {"runbookUrl": values.pop("runbookUrl", "")}}
    rendered = render({"dashboards": {"enabled": True, **values}}, runbooks)
    return rendered.one("ConfigMap", f"{NAME}-realfake-overview")


def test_the_dashboard_of_the_repository_is_installed() -> None:
    found = dashboards(annotations={"grafana_folder": "Vision"})
    source = ROOT / "manifests" / "dashboards" / "realfake-overview.json"
    assert found["data"] == {"realfake-overview.json": source.read_text("utf-8")}
    assert found["metadata"]["annotations"] == {"grafana_folder": "Vision"}
    assert "annotations" not in dashboards()["metadata"]
    # `kubectl apply` and Argo CD write the whole object into one annotation of 256 KiB at most.
    assert len(json.dumps(found)) < 256 * 1024


@pytest.mark.parametrize(
    "base", ["https://runbooks.example.com/r", "https://runbooks.example.com/r/?a=1&b=%22"]
)
def test_dashboards_link_to_where_the_runbooks_are_published(base: str) -> None:
    (text,) = dashboards(runbookUrl=base)["data"].values()
    assert "realfake.invalid" not in text
    variables = json.loads(text)["templating"]["list"]
    (runbooks,) = (one for one in variables if one["name"] == "runbooks")
    assert runbooks["query"] == runbooks["current"]["value"] == base
