"""Upgrading and rolling back change nothing that Kubernetes or KServe refuse to change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, PROFILES, Object, Rendered, merged, profile, render_exactly

NEXT: Object = {"image": {"tag": "0.2.0", "digest": ""}, "config": {"limits": {"max_pictures": 8}}}


def fixed(rendered: Rendered) -> dict[tuple[str, str], Any]:
    """What may not change of each object: its identity, and the fields that are immutable."""
    found: dict[tuple[str, str], Any] = {}
    for document in rendered.objects:
        key = (document["kind"], document["metadata"]["name"])
        match document["kind"]:
            case "InferenceService":
                found[key] = (
                    document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"],
                    document["spec"]["predictor"].get("name"),
                )
            case "Secret" | "ConfigMap":
                found[key] = (document.get("type"), document.get("immutable", False))
            case _:
                found[key] = None
    return found


def pods(rendered: Rendered) -> list[Any]:
    return [
        (service["metadata"]["labels"], service["metadata"]["annotations"], service["spec"])
        for service in rendered.all("InferenceService")
    ]


@pytest.fixture(scope="module")
def next_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chart = tmp_path_factory.mktemp("next") / "realfake"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    described = yaml.safe_load(file.read_text())
    described["version"] = "9.9.9"
    file.write_text(yaml.safe_dump(described))
    return chart


@pytest.mark.parametrize("name", PROFILES)
def test_a_new_version_of_the_chart_replaces_no_pod(name: str, next_chart: Path) -> None:
    before = render_exactly(profile(name))
    after = render_exactly(profile(name), chart=next_chart)
    assert pods(before) == pods(after)
    assert fixed(before) == fixed(after)


@pytest.mark.parametrize("name", PROFILES)
def test_an_upgrade_and_its_rollback_change_no_fixed_field(name: str) -> None:
    before = render_exactly(profile(name))
    after = render_exactly(merged(profile(name), NEXT))
    assert fixed(before) == fixed(after)
    assert pods(before) != pods(after)


def test_the_upgrade_notes_name_this_version() -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    notes = (CHART / "UPGRADE.md").read_text()
    assert f"## {described['version']}\n" in notes
