"""Metrics have one name everywhere: code, documentation, chart, rollout assistant, dashboards."""

from __future__ import annotations

import re
import subprocess
import sys

from predictor.telemetry.metrics import ALL, LABELS
from tests.documentation import ROOT

# A metric, not a method of this name.
NAMED = re.compile(r"(?<![.\w])(?:inference|api_key)_[a-z_]+\b(?!\()(?<!_)")
SELECTED = re.compile(r"\b((?:inference|api_key)_[a-z_]+)\{([^}]*)\}")
PLACES = ("README.md", "docs", "charts/realfake", "hack/rollout", "hack/compose", "manifests")
ENDINGS = {".md", ".py", ".tpl", ".yaml", ".json", ".txt"}


def texts() -> dict[str, str]:
    files = [
        file
        for place in PLACES
        for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        if file.suffix in ENDINGS
    ]
    return {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files}


def series() -> set[str]:
    parts = ("_bucket", "_sum", "_count")
    return {metric.name for metric in ALL} | {
        metric.name + part for metric in ALL if metric.kind == "histogram" for part in parts
    }


def test_the_page_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.generate_metrics_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_that_is_named_exists() -> None:
    """A query for a metric that was renamed finds nothing, and alerts on nothing."""
    named = {(file, name) for file, text in texts().items() for name in NAMED.findall(text)}
    assert {"charts/realfake/templates/_scaling.tpl", "hack/rollout/evidence.py"} <= {
        file for file, _ in named
    }, "nothing was looked at"
    assert not [(file, name) for file, name in named if name not in series()]


def test_codes_that_are_asked_for_exist() -> None:
    """`code` holds names such as OVERLOADED; a query for 5.. is never true."""
    asked = [
        (file, wanted)
        for file, text in texts().items()
        for _, selectors in SELECTED.findall(text)
        for wanted in re.findall(r'\bcode=~?"([^"]*)"', selectors)
    ]
    assert asked, "nothing was looked at"
    assert not [place for place in asked if not re.fullmatch(r"[A-Z_|]+", place[1])]


def test_labels_are_described_only_where_a_metric_has_them() -> None:
    assert set(LABELS) == {label for metric in ALL for label in metric.labels} - {"outcome"}
