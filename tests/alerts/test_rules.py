"""Prometheus' own tool reads the rules, and shows which series fire which alert."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hack.runbooks import RUNBOOKS, queries
from tests.chart.rendering import render

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "manifests" / "alerts").glob("*.yaml"))
TESTS = sorted(Path(__file__).parent.glob("*.yaml"))

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)


def promtool(*args: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, args)], capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_the_rules_are_valid() -> None:
    """Strict also about two rules that would write the same series."""
    assert RULES
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_what_the_chart_installs_is_valid(tmp_path: Path) -> None:
    """It joins the files, and a group's name may occur once in each PrometheusRule."""
    values = {"alerts": {"enabled": True, "runbookUrl": "https://runbooks.example.com"}}
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(render(values).one("PrometheusRule")["spec"]), "utf-8")
    promtool("check", "rules", "--lint=all", "--lint-fatal", file)


def test_the_queries_of_the_runbooks_are_valid(tmp_path: Path) -> None:
    """Somebody pastes them in the middle of the night."""
    rules = [
        {"record": f"query:{number}", "expr": query}
        for number, query in enumerate(
            query for page in sorted(RUNBOOKS.glob("*.md")) for query in queries(page)
        )
    ]
    assert len(rules) > 20
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}), "utf-8")
    promtool("check", "rules", file)


@pytest.mark.slow  # A week of series is played back where a rule looks back a week.
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_say_what_they_should(file: Path) -> None:
    promtool("test", "rules", file)


def test_a_wrong_expectation_would_be_noticed(tmp_path: Path) -> None:
    """Of the tool, that it fails at all: an alert that does not fire is an error to it."""
    text = (Path(__file__).parent / "capacity.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    text = text.replace("../../manifests", str(ROOT / "manifests"))
    wrong.write_text(text.replace("values: 0+30x20", "values: 0+0x20"), encoding="utf-8")
    with pytest.raises(AssertionError, match="RealfakeSheddingLoad"):
        promtool("test", "rules", wrong)
