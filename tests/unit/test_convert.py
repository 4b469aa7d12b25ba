"""Making a bundle from a checkpoint: it is whole, it is proven, and a failure leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file

from predictor.bundle.convert import convert
from predictor.bundle.files import CONFIG, GOLDEN, REALFAKE, WEIGHTS, write_realfake_json
from predictor.bundle.loader import load_module
from predictor.bundle.manifest import read_manifest
from predictor.bundle.proving import inspect, verify
from predictor.errors import BundleError
from tests.unit.bundles import (
    ARCHITECTURE,
    OWN_FIELDS,
    as_nobody,
    files_no_larger_than,
    hub_bundle,
    set_config,
)

WANTED: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "label_names": ["photo", "gan", "diffusion"],
    "fake_labels": ["gan", "diffusion"],
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What a trainer leaves behind."""
    torch.manual_seed(0)
    module = timm.create_model(ARCHITECTURE, num_classes=3)
    file = tmp_path / "model_best.pth"
    torch.save({"epoch": 9, "state_dict": module.state_dict()}, file)
    return file


def test_a_checkpoint_becomes_a_proven_bundle(checkpoint: Path, tmp_path: Path) -> None:
    manifest = convert(checkpoint, tmp_path / "new" / "bundle", **WANTED, version="2026-01")
    assert {file.name for file in manifest.path.iterdir()} == {CONFIG, WEIGHTS, GOLDEN, REALFAKE}
    assert manifest.version == "2026-01"
    assert manifest.verdicts.fake_labels == (1, 2)
    assert manifest.preprocessing.input_size == (160, 160)
    assert manifest.preprocessing.mean == (0.485, 0.456, 0.406)
    digests, weights, golden = verify(manifest.path)
    assert digests == "3 digests match"
    assert weights.startswith(ARCHITECTURE)
    assert golden.startswith("4 golden vectors answered within")

    theirs = timm.create_model(ARCHITECTURE, num_classes=3).eval()
    theirs.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    pictures = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(load_module(manifest)(pictures), theirs(pictures))


def test_safetensors_are_converted_too(checkpoint: Path, tmp_path: Path) -> None:
    first = convert(checkpoint, tmp_path / "first", **WANTED)
    again = convert(first.path / WEIGHTS, tmp_path / "again", **WANTED)
    assert again.digest == first.digest


def test_a_network_of_one_size_is_made_for_the_size_asked_for(tmp_path: Path) -> None:
    hub_bundle(tmp_path, "vit_tiny_patch16_224", options={"img_size": 64}, pickled=True)
    manifest = convert(
        tmp_path / "pytorch_model.bin",
        tmp_path / "bundle",
        architecture="vit_tiny_patch16_224",
        label_names=["fake", "real"],
        fake_labels=["fake"],
        input_size=64,
    )
    assert manifest.preprocessing.input_size == (64, 64)
    verify(manifest.path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fake_labels": ["deepfake"]}, "must name labels of config.json that mean fake"),
        ({"label_names": ["fake"], "fake_labels": ["fake"]}, "has shape (3, 256)"),
        ({"label_names": ["a", "b", "b"], "fake_labels": ["a"]}, "names a class twice"),
        ({"architecture": "test_resnet"}, "lacks "),
        ({"architecture": "no_net"}, "has none such"),
        ({"version": "1/2"}, "version"),
        ({"input_size": 0}, "input_size"),
    ],
)
def test_a_refused_conversion_can_be_tried_again(
    change: dict[str, Any], says: str, checkpoint: Path, tmp_path: Path
) -> None:
    """What is left behind by a typing error must not be in the way of the corrected command."""
    output = tmp_path / "bundle"
    with pytest.raises(BundleError) as refused:
        convert(checkpoint, output, **{**WANTED, **change})
    assert says in refused.value.message
    assert not output.exists() or not list(output.iterdir())
    convert(checkpoint, output, **WANTED)


def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not empty"):
        convert(checkpoint, tmp_path, **WANTED)
    with pytest.raises(BundleError, match=r"model_best\.pth: cannot be written: File exists"):
        convert(checkpoint, checkpoint, **WANTED)
    with pytest.raises(BundleError, match=r"gone\.pth: cannot be read: No such file"):
        convert(tmp_path / "gone.pth", tmp_path / "new", **WANTED)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_named(checkpoint: Path, tmp_path: Path) -> None:
    refused = pytest.raises(BundleError, match="bundle: cannot be written: Permission denied")
    with as_nobody(tmp_path, mode=0o555), refused:
        convert(Path(checkpoint.name), Path("bundle"), **WANTED)


def test_a_full_disk_is_named_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    refused = pytest.raises(BundleError, match="bundle: cannot be written: ")
    with files_no_larger_than(100_000), refused:
        convert(checkpoint, output, **WANTED)
    assert list(output.iterdir()) == []


# verify and inspect


@pytest.fixture
def bundle(checkpoint: Path, tmp_path: Path) -> Path:
    return convert(checkpoint, tmp_path / "bundle", **WANTED).path


def test_verify_says_what_nobody_can_prove(bundle: Path) -> None:
    (bundle / REALFAKE).unlink()
    (bundle / GOLDEN).unlink()
    set_config(bundle, "label_names", ["Fake", "FAKE", "real"])
    digests, _, golden = verify(bundle)
    assert digests == "no realfake.json: nothing says what the digests should be"
    assert golden == "no golden vectors to replay"


def rewrite(bundle: Path, name: str, change: dict[str, Any]) -> None:
    """Change tensors and make the digests match again: only the answers can tell."""
    save_file({**load_file(bundle / name), **change}, bundle / name)
    labels = {"fake": ["gan", "diffusion"], "real": ["photo"]}
    write_realfake_json(bundle, {**OWN_FIELDS, "labels": labels, "temperature": 1.0})


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN])
def test_verify_finds_answers_of_another_training(name: str, bundle: Path) -> None:
    tensors = load_file(bundle / name)
    key = "classifier.bias" if name == WEIGHTS else "probabilities"
    rewrite(bundle, name, {key: tensors[key] + 0.01 * (tensors[key].argsort() + 1)})
    with pytest.raises(BundleError, match="golden vectors: an answer differs by"):
        verify(bundle)


def test_inspect_is_plain_data(bundle: Path) -> None:
    described = inspect(bundle)
    manifest = read_manifest(bundle)
    assert described["path"] == str(bundle)
    assert described["weights"] == WEIGHTS
    assert described["digest"] == manifest.digest
    assert described["preprocessing"]["input_size"] == (160, 160)
    assert described["verdicts"]["fake_labels"] == (1, 2)
