"""The committed debug bundle: small, honest, and what its generator makes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hack.debug_bundle import training
from hack.debug_bundle.card import model_card
from hack.debug_bundle.scenes import KINDS, Kind, picture
from predictor.bundle.loader import load_module
from predictor.bundle.manifest import read_golden_vectors, read_manifest
from predictor.bundle.proving import verify
from predictor.bundle.reference import measure
from predictor.inference.classifier import load_classifier
from predictor.inference.pictures import EncodedImage
from predictor.settings import Settings
from predictor.settings.groups import ModelSettings

DEBUG = Path(__file__).parents[2] / "checkpoints" / "debug"
SEED = 7
CARD = (DEBUG / "README.md").read_text()
OWN: dict[str, Any] = json.loads((DEBUG / "realfake.json").read_text())


def test_it_is_small_enough_to_commit() -> None:
    assert sum(file.stat().st_size for file in DEBUG.rglob("*")) < 4 * 1024 * 1024


def test_the_card_says_it_detects_nothing_first() -> None:
    title, _, text = CARD.partition("\n\n")
    assert title == "# Debug bundle"
    assert text.startswith("**It detects nothing in the real world.**")


def test_every_number_on_the_card_is_the_bundles_own() -> None:
    """Rendered again from realfake.json it is the same card: nobody improved it by hand."""
    trained_on = re.search(r"trained on \| (\d+) procedural pictures, (\d+) epochs", CARD)
    assert trained_on is not None
    pictures, epochs = map(int, trained_on.groups())
    assert model_card(OWN, pictures=pictures, epochs=epochs) == CARD
    assert OWN["metrics"].keys() == {"auc", "accuracy", "ece"}
    config = json.loads((DEBUG / "config.json").read_text())
    assert config["architecture"] == training.ARCHITECTURE
    assert config["pretrained_cfg"] == training.PRETRAINED_CFG


def test_it_is_calibrated_and_its_lines_are_measured() -> None:
    manifest = read_manifest(DEBUG)
    high, low = manifest.verdicts.fake_at_least, manifest.verdicts.real_at_most
    assert manifest.temperature != 1.0
    assert low.value < 0.5 < high.value
    assert high.error_rate is not None
    assert 0 < high.error_rate < 0.02
    assert low.error_rate is not None
    assert 0 < low.error_rate < 0.02


def test_its_golden_vectors_replay() -> None:
    assert verify(DEBUG)[-1].startswith("4 golden vectors answered within")


def test_its_golden_pixels_are_what_the_seed_makes() -> None:
    golden = read_golden_vectors(read_manifest(DEBUG))
    assert golden is not None
    assert np.array_equal(golden.pixels, training.dataset(SEED + 2, 4).pixels)


def test_its_numbers_hold_on_pictures_it_was_held_from() -> None:
    """The first 400 of the 2,000 held-out pictures: the card may be lucky, not wrong."""
    manifest = read_manifest(DEBUG)
    held_out = training.dataset(SEED + 2, 400)
    logits = training.logits(load_module(manifest), held_out)
    fake = training.probabilities(logits, manifest.temperature)[:, training.FAKE]
    measured, stated = training.measure(fake, held_out.labels), OWN["metrics"]
    assert measured["auc"] == pytest.approx(stated["auc"], abs=0.01)
    assert measured["accuracy"] == pytest.approx(stated["accuracy"], abs=0.02)
    photos = fake[held_out.labels != training.FAKE]
    lines = OWN["thresholds"]["fake_at_least"]
    rate = float((photos >= lines["value"]).mean())
    assert rate == pytest.approx(lines["false_positive_rate"], abs=0.02)
    reference = manifest.reference
    assert reference is not None
    assert reference.pictures == 2000
    assert measure(fake.tolist()).shares == pytest.approx(reference.shares, abs=0.05)


async def test_its_samples_get_the_verdict_of_their_name() -> None:
    files = sorted((DEBUG / "samples").iterdir())
    classifier = load_classifier(Settings(model=ModelSettings(path=DEBUG)))
    try:
        answers = await classifier.classify([EncodedImage(file.read_bytes()) for file in files])
    finally:
        await classifier.close()
    verdicts = {file.name: answer.verdict for file, answer in zip(files, answers, strict=True)}
    assert verdicts == {
        **{"fake-1.jpg": "fake", "fake-2.jpg": "fake"},
        **{"photo-1.jpg": "real", "photo-2.jpg": "real"},
    }


# Its generator


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_picture_and_another_a_different_one(kind: Kind) -> None:
    first, again, other = (
        picture(kind, np.random.default_rng(seed), (128, 96)) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    with Image.open(io.BytesIO(first)) as image:
        assert (image.format, image.size) == ("JPEG", (128, 96))


def test_a_seed_makes_the_same_dataset() -> None:
    first, again = training.dataset(5, 6), training.dataset(5, 6)
    assert np.array_equal(first.pixels, again.pixels)
    assert list(first.labels) == [1, 0, 1, 0, 1, 0]
    assert not np.array_equal(first.pixels, training.dataset(6, 6).pixels)


def test_a_seed_makes_the_same_training() -> None:
    data = training.dataset(5, training.BATCH)
    first, again = (training.train(data, seed=1, epochs=1).state_dict() for _ in range(2))
    assert all(bool((first[name] == again[name]).all()) for name in first)


def test_the_committed_samples_are_pictures_of_the_generator() -> None:
    made = {
        data
        for kind in KINDS
        for data in training.sample(kind, range(SEED * 1000, SEED * 1000 + 20), (192, 144))
    }
    assert {file.read_bytes() for file in (DEBUG / "samples").iterdir()} <= made


@pytest.mark.parametrize(
    ("fake", "labels", "auc", "accuracy"),
    [
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 1.0, 1.0),
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0, 0.0),
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], 0.5, 0.5),
        ([1.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], 0.5, 0.5),
        ([0.9, 0.4, 0.6, 0.1], [0, 0, 1, 1], 0.75, 0.5),
    ],
)
def test_what_is_measured(
    fake: list[float], labels: list[int], auc: float, accuracy: float
) -> None:
    """Equal answers count half, or the order of the pictures would decide the AUC."""
    measured = training.measure(np.array(fake), np.array(labels))
    assert (measured["auc"], measured["accuracy"]) == (auc, accuracy)


def test_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    fake, labels = np.full(100, 0.9), np.array([0] * 60 + [1] * 40)
    assert training.measure(fake, labels)["ece"] == pytest.approx(0.3)


@pytest.mark.parametrize("saturated", [True, False])
def test_lines_are_probabilities_that_few_cross(saturated: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    fake = np.clip(0.5 + (0.5 - labels) * 0.5 + rng.normal(0, 0.3, 2000), 0, 1)
    if not saturated:
        fake = 0.05 + 0.9 * fake
    lines = training.thresholds(fake, labels, 0.005)
    high, low = lines["fake_at_least"], lines["real_at_most"]
    assert 0 <= low["value"] <= 0.5 <= high["value"] <= 1
    if not saturated:
        assert high["false_positive_rate"] <= 0.005
        assert low["false_negative_rate"] <= 0.005


def test_the_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (4000, 2))
    chances = training.probabilities(true, 1.0)
    labels = (rng.random(4000) > chances[:, 0]).astype(np.int64)
    assert training.temperature(true * 2.0, labels) == pytest.approx(2.0, abs=0.15)
