"""A bundle's description: what is read from it, and that nothing doubtful is served."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.bundle.files import CONFIG, REALFAKE, WEIGHTS, sha256, write_realfake_json
from predictor.bundle.manifest import (
    DEFAULT_CROP_PCT,
    IMAGENET_MEAN,
    Manifest,
    read_manifest,
)
from predictor.bundle.reference import Reference
from predictor.bundle.verdicts import Threshold, Verdicts
from predictor.errors import BundleError
from tests.unit.bundles import (
    CONFIG_FIELDS,
    OWN_FIELDS,
    refusal,
    set_config,
    set_own,
    with_field,
)


def test_everything_comes_from_the_bundle(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert (manifest.architecture, manifest.num_classes) == ("test_efficientnet", 2)
    assert manifest.label_names == ("fake", "real")
    assert manifest.preprocessing.input_size == (32, 48)
    assert manifest.preprocessing.std == (0.25, 0.25, 0.25)
    assert (manifest.temperature, manifest.version) == (1.5, "7")
    high, low = manifest.verdicts.fake_at_least, manifest.verdicts.real_at_most
    assert (high.value, high.error_rate) == (0.8, 0.01)
    assert (low.value, low.error_rate) == (0.2, 0.02)
    assert manifest.files == {name: sha256(bundle / name) for name in (CONFIG, WEIGHTS)}
    assert manifest.reference == Reference((0.5, 1.0), (0.7, 1.0), 2000)


def test_a_plain_hub_bundle_gets_what_timm_assumes(bundle: Path) -> None:
    (bundle / REALFAKE).unlink()
    config = {"architecture": "a", "label_names": ["Real", "Fake"], "pretrained_cfg": None}
    (bundle / CONFIG).write_text(json.dumps(config))
    manifest = read_manifest(bundle)
    assert manifest.preprocessing.input_size == (224, 224)
    assert manifest.preprocessing.crop_pct == DEFAULT_CROP_PCT
    assert manifest.preprocessing.mean == IMAGENET_MEAN
    assert (manifest.verdicts.fake_labels, manifest.verdicts.real_labels) == ((1,), (0,))
    assert manifest.verdicts.fake_at_least.error_rate is None


@pytest.mark.parametrize("place", ["mean", "std", "crop_pct", "interpolation", "input_size"])
def test_null_is_unsaid_as_it_is_for_timm(place: str, bundle: Path) -> None:
    set_config(bundle, f"pretrained_cfg.{place}", None)
    read_manifest(bundle)


@pytest.mark.parametrize(
    ("names", "meaning"),
    [
        ({"0": "real", "1": "fake"}, {}),
        (["photo", "gan", "diffusion"], {"fake": ["gan", "diffusion"], "real": ["photo"]}),
        (["FAKE", "Real"], {}),
    ],
)
def test_labels_are_never_told_by_their_index(names: Any, meaning: Any, bundle: Path) -> None:
    set_config(bundle, "num_classes", len(names))
    set_config(bundle, "label_names", names)
    set_own(bundle, "labels", meaning)
    manifest = read_manifest(bundle)
    fake = {manifest.label_names[index].lower() for index in manifest.verdicts.fake_labels}
    assert fake in ({"fake"}, {"gan", "diffusion"})


@given(st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=12))
def test_fake_probability_is_a_probability(weights: list[float]) -> None:
    """Rounded shares of many fake labels add up to more than 1."""
    shares = (np.array(weights) / np.sum(weights)).astype(np.float32)
    assert 0 <= all_fake(len(weights)).fake_probability(shares) <= 1


def test_a_broken_answer_does_not_become_a_certainty() -> None:
    assert math.isnan(all_fake(3).fake_probability(np.full(3, np.nan, np.float32)))


def all_fake(count: int) -> Verdicts:
    return Verdicts(tuple(range(count)), (), Threshold(0.5), Threshold(0.5))


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("architecture", None, "config.json: architecture"),
        ("architecture", 7, "config.json: architecture"),
        ("num_classes", 3, "config.json: num_classes: must be 2"),
        ("num_classes", "2", "config.json: num_classes"),
        ("num_classes", 10**400, "config.json: num_classes"),
        ("label_names", None, "config.json: label_names"),
        ("label_names", "fake,real", "config.json: label_names"),
        ("label_names", ["fake", 1], "config.json: label_names"),
        ("label_names", {"1": "fake", "2": "real"}, "config.json: label_names"),
        ("label_names", ["fake"], "at least two classes"),
        ("label_names", ["fake", "fake"], "names a class twice"),
        ("label_names", ["fake", "\ud800"], "printable"),
        ("label_names", ["fake", "re\nal"], "printable"),
        ("label_names", ["cat", "dog"], "labels of config.json that mean fake; it has cat, dog"),
        ("model_args", [1], "config.json: model_args: must be an object"),
        ("pretrained_cfg", [1], "config.json: pretrained_cfg: must be an object"),
        ("pretrained_cfg.input_size", [3, 224], "pretrained_cfg: input_size"),
        ("pretrained_cfg.input_size", [1, 224, 224], "pretrained_cfg: input_size"),
        ("pretrained_cfg.input_size", [3, 0, 224], "pretrained_cfg: input_size"),
        ("pretrained_cfg.input_size", [3, 1.5, 224], "pretrained_cfg: input_size"),
        ("pretrained_cfg.input_size", [3, 10**6, 10**6], "at most 4096"),
        ("pretrained_cfg.input_size", [3, 10**400, 1], "pretrained_cfg: input_size"),
        ("pretrained_cfg.interpolation", "random", "pretrained_cfg: interpolation"),
        ("pretrained_cfg.crop_mode", "corner", "pretrained_cfg: crop_mode"),
        ("pretrained_cfg.crop_pct", 0, "pretrained_cfg: crop_pct"),
        ("pretrained_cfg.crop_pct", 1.01, "pretrained_cfg: crop_pct"),
        ("pretrained_cfg.crop_pct", True, "pretrained_cfg: crop_pct"),
        ("pretrained_cfg.mean", [0.5], "pretrained_cfg: std"),
        ("pretrained_cfg.std", [0.5, 0.5, 0], "pretrained_cfg: std"),
        ("pretrained_cfg.std", ["a", "b", "c"], "pretrained_cfg: std"),
    ],
)
def test_config_that_is_wrong_is_named(place: str, value: Any, says: str, bundle: Path) -> None:
    set_own(bundle, "labels", {})
    set_config(bundle, place, value)
    assert says in refusal(bundle)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("format_version", 2, "format_version: must be 1"),
        ("format_version", None, "format_version: must be 1"),
        ("version", "a/b", "version"),
        ("version", 3, "version"),
        ("version", "v" * 65, "version"),
        ("temperature", 0, "temperature: must be between"),
        ("temperature", -1, "temperature"),
        ("temperature", 1e-300, "temperature"),
        ("temperature", 10**400, "temperature"),
        ("temperature", "1", "temperature"),
        ("labels.fake", ["generated"], "must name labels of config.json that mean fake"),
        ("labels.fake", [], "must name labels"),
        ("labels.fake", ["fake", "fake"], "every label exactly once"),
        ("labels.real", ["fake"], "every label exactly once"),
        ("labels", ["fake"], "labels: must be an object"),
        ("thresholds.fake_at_least.value", 1.5, "fake_at_least: value"),
        ("thresholds.fake_at_least.value", "high", "fake_at_least: value"),
        ("thresholds.fake_at_least.false_positive_rate", 7, "false_positive_rate"),
        ("thresholds.real_at_most.false_negative_rate", -0.1, "false_negative_rate"),
        ("thresholds.real_at_most.value", 0.9, "must not be above fake_at_least"),
        ("thresholds", 0.5, "thresholds: must be an object"),
        ("metrics", "good", "metrics: must be an object"),
        ("reference", [0.5], "reference: must be an object"),
        ("reference.bounds", [], "reference: bounds: must be 1 to 1000 numbers"),
        ("reference.bounds", [0.5, 0.5], "reference: bounds: must rise"),
        ("reference.bounds", [0.5, 0.9], "reference: bounds: must rise from 0 or more, and end"),
        ("reference.bounds", [-0.5, 1], "reference: bounds: must rise from 0 or more"),
        ("reference.bounds", [0.5, "1"], "reference: bounds: must be a list of finite numbers"),
        ("reference.bounds", [0.2, 0.5, 1], "reference: shares: must be 3 numbers"),
        ("reference.shares", [1.2, 1], "reference: shares: must not fall"),
        ("reference.shares", [-0.1, 1], "reference: shares: must not fall, be 0 or more"),
        ("reference.shares", [0.2, 0.9], "reference: shares: must not fall, be 0 or more, and end"),
        ("reference.shares", None, "reference: shares: must be 2 numbers"),
        ("reference.pictures", 0, "reference: pictures: must be a whole number"),
        ("reference.pictures", 0.5, "reference: pictures: must be a whole number"),
        ("reference.pictures", None, "reference: pictures: must be a whole number"),
        ("files", {}, "files: must hold the SHA-256 of config.json"),
        ("files", "all", "files: must be an object"),
    ],
)
def test_realfake_json_that_is_wrong_is_named(
    place: str, value: Any, says: str, bundle: Path
) -> None:
    set_own(bundle, place, value)
    message = refusal(bundle)
    assert says in message
    assert message.startswith("realfake.json: ")


def test_a_thousand_labels_do_not_fill_the_log(bundle: Path) -> None:
    set_own(bundle, "labels", {})
    set_config(bundle, "num_classes", 1000)
    set_config(bundle, "label_names", [f"class {index}" for index in range(1000)])
    message = refusal(bundle)
    assert "and 995 more" in message
    assert len(message) < 300


BROKEN_JSON = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"\xef\xbb\xbf{}"),
    *(b'{"a": NaN}', b'{"a": -Infinity}'),
    b"[" * 100_000,
    b'{"metrics": ' + b'{"a": ' * 400 + b"1" + b"}" * 401,
    b'{"num_classes": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("name", [CONFIG, REALFAKE])
@pytest.mark.parametrize("text", BROKEN_JSON, ids=lambda text: repr(text[:12]))
def test_a_file_that_is_no_json_object_is_named(name: str, text: bytes, bundle: Path) -> None:
    (bundle / name).write_bytes(text)
    assert refusal(bundle).startswith(f"{name}: ")


def test_an_empty_realfake_json_is_not_the_absence_of_one(bundle: Path) -> None:
    """Emptied on the way, it would take thresholds and digests with it."""
    (bundle / REALFAKE).write_text("{}")
    assert "format_version" in refusal(bundle)


# What a field may hold instead, whatever wrote the file.

NAMES = st.sampled_from(["fake", "real", "0", "value"]) | st.text(max_size=4)
EXTREMES = st.sampled_from([10**400, -1, 0, 1e308, 5e-324, "\ud800", "fake", "real"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | EXTREMES,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(NAMES, inside),
    max_leaves=6,
)


def places(document: dict[str, Any], before: str = "") -> list[str]:
    found: list[str] = []
    for name, value in document.items():
        found.append(before + name)
        if isinstance(value, dict):
            found += places(value, f"{before}{name}.")
    return found


def read_or_refuse(bundle: Path) -> None:
    message = None
    try:
        manifest = read_manifest(bundle)
    except BundleError as error:
        message = error.message
    if message is None:
        assert_servable(manifest)
    else:
        assert message.startswith((f"{CONFIG}: ", f"{REALFAKE}: "))


def assert_servable(manifest: Manifest) -> None:
    numbers = (manifest.temperature, *manifest.preprocessing.mean, *manifest.preprocessing.std)
    assert all(map(math.isfinite, numbers))
    if (reference := manifest.reference) is not None:
        assert list(reference.shares) == sorted(reference.shares)
        assert 0 <= reference.shares[0] <= reference.shares[-1] == reference.bounds[-1] == 1
    assert manifest.verdicts.real_at_most.value <= manifest.verdicts.fake_at_least.value
    assert sorted(manifest.verdicts.fake_labels + manifest.verdicts.real_labels) == list(
        range(manifest.num_classes)
    )
    " ".join([*manifest.label_names, manifest.version, manifest.architecture]).encode()


fuzz = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(place=st.sampled_from([*places(CONFIG_FIELDS), "stranger"]), value=JSON)
def test_any_value_in_config_json_is_read_or_refused(place: str, value: Any, bundle: Path) -> None:
    (bundle / CONFIG).write_text(json.dumps(with_field(CONFIG_FIELDS, place, value)))
    write_realfake_json(bundle, OWN_FIELDS)
    read_or_refuse(bundle)


@fuzz
@given(place=st.sampled_from([*places(OWN_FIELDS), "format_version", "files"]), value=JSON)
def test_any_value_in_realfake_json_is_read_or_refused(
    place: str, value: Any, bundle: Path
) -> None:
    write_realfake_json(bundle, OWN_FIELDS)
    set_own(bundle, place, value)
    read_or_refuse(bundle)
