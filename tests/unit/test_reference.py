"""What scores a bundle's author saw: measured, written into the bundle, shown at a scrape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from predictor.bundle.files import REALFAKE
from predictor.bundle.manifest import read_manifest
from predictor.bundle.reference import FEWEST_PICTURES, STEPS, Reference, measure
from predictor.cli import main
from predictor.serving.measured import measure_reference
from predictor.telemetry.metrics import FAKE_PROBABILITY
from predictor.telemetry.recording import Metrics
from tests.unit.bundles import described

Output = pytest.CaptureFixture[str]
GAUGE = "inference_fake_probability_reference"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return described(tmp_path / "bundle")


def journal(bundle: Path, **changes: Any) -> list[dict[str, Any]]:
    """A thousand scores, the half of them 0.25 and the others 0.9, and a file that was none."""
    digest = read_manifest(bundle).digest
    verdicts: list[dict[str, Any]] = [
        {"code": None, "model_digest": digest, "fake_prob": score, **changes}
        for score in (0.25, 0.9)
        for _ in range(FEWEST_PICTURES // 2)
    ]
    return [{"code": "INVALID_IMAGE", "model_digest": digest, "fake_prob": None}, *verdicts]


def written(directory: Path, records: list[Any]) -> Path:
    file = directory / "results.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_share_counts_what_lies_on_its_bound() -> None:
    """As a bucket of Prometheus does; off by one, every comparison would be."""
    measured = measure([0.05, 0.05, 0.5, 1.0])
    assert (measured.at(0.05), measured.at(0.45), measured.at(0.5)) == (0.5, 0.5, 0.75)
    assert (measured.at(0.95), measured.at(1.0), measured.pictures) == (0.75, 1.0, 4)
    assert measured.at(0.51) is None


def test_what_is_measured_meets_the_histogram() -> None:
    assert measure([0.5]).bounds == FAKE_PROBABILITY.buckets
    assert len(FAKE_PROBABILITY.buckets) == STEPS


def test_scores_become_the_bundles_reference(bundle: Path, tmp_path: Path, capsys: Output) -> None:
    before, own = read_manifest(bundle), json.loads((bundle / REALFAKE).read_text())
    scores = written(tmp_path, journal(bundle))
    assert main(["model", "reference", str(bundle), str(scores)]) == 0
    after = read_manifest(bundle)
    assert after.reference is not None
    assert after.reference.at(0.2) == 0
    assert after.reference.at(0.25) == after.reference.at(0.85) == 0.5
    assert after.reference.pictures == FEWEST_PICTURES
    assert after.digest != before.digest
    assert after.digest[:12] in capsys.readouterr().out
    kept = json.loads((bundle / REALFAKE).read_text())
    assert kept == {**own, "reference": after.reference.fields()}


def test_a_bundle_without_realfake_json_gets_one(bundle: Path, tmp_path: Path) -> None:
    (bundle / REALFAKE).unlink()
    scores = written(tmp_path, journal(bundle))
    assert main(["model", "reference", str(bundle), str(scores)]) == 0
    manifest = read_manifest(bundle)
    assert manifest.reference is not None
    assert manifest.files.keys() == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (lambda bundle: journal(bundle, model_digest="other"), "scored with another model"),
        (lambda bundle: journal(bundle)[:-1], "has 999 scores; fewer than 1000"),
        (lambda bundle: [], "has 0 scores"),
        (lambda bundle: [[1]], "is not what `score --output"),
        (lambda bundle: [{"path": "x"}], "is not what `score --output"),
        (lambda bundle: journal(bundle, fake_prob="high"), "is not what `score --output"),
        (lambda bundle: journal(bundle, fake_prob=1.5), "is not what `score --output"),
    ],
)
def test_scores_that_cannot_be_a_reference_leave_the_bundle_as_it_is(
    records: Callable[[Path], list[Any]], says: str, bundle: Path, tmp_path: Path, capsys: Output
) -> None:
    before = (bundle / REALFAKE).read_bytes()
    scores = written(tmp_path, records(bundle))
    assert main(["model", "reference", str(bundle), str(scores)]) == 3
    assert says in capsys.readouterr().err
    assert (bundle / REALFAKE).read_bytes() == before


def test_scores_that_are_not_there_are_named(bundle: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["model", "reference", str(bundle), str(tmp_path / "none")]) == 3
    assert "cannot be read: No such file" in capsys.readouterr().err


def exposed(reference: Reference) -> dict[str, float]:
    metrics = Metrics()
    measure_reference(metrics, reference)
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {
        line.split('"')[1]: float(line.split()[-1])
        for line in lines
        if line.startswith(f"{GAUGE}{{")
    }


def test_its_bounds_are_written_as_the_histograms() -> None:
    """`1` and `1.0` are two labels to Prometheus, and two series that never meet."""
    metrics = Metrics()
    text = generate_latest(metrics.registry).decode()
    bounds = [
        line.split('le="')[1].split('"')[0]
        for line in text.splitlines()
        if line.startswith("inference_fake_probability_bucket") and "+Inf" not in line
    ]
    assert list(exposed(measure([0.3, 0.7]))) == bounds


def test_no_share_between_two_bounds_is_made_up() -> None:
    assert exposed(Reference((0.33, 0.5, 1.0), (0.2, 0.6, 1.0), 10)) == {"0.5": 0.6, "1.0": 1.0}


def test_a_reference_that_nothing_can_be_compared_with_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exposed(Reference((0.33, 1.0), (0.2, 1.0), 10))
    assert "drift goes unnoticed" in caplog.text
