"""From a bundle to one with `model.onnx`: the same answers, and nothing half done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from predictor.bundle.answers import answers, probabilities
from predictor.bundle.export import export, exported_session
from predictor.bundle.files import CONFIG, GRAPH, REALFAKE, WEIGHTS, sha256
from predictor.bundle.graph import PARITY_TOLERANCE, open_graph
from predictor.bundle.loader import load_module
from predictor.bundle.manifest import read_manifest
from predictor.bundle.proving import verify
from predictor.errors import BundleError
from tests.unit.bundles import files_no_larger_than, hub_bundle, set_own

DEBUG = Path(__file__).parents[2] / "checkpoints" / "debug"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    hub_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def contents(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    "architecture",
    [
        "test_byobnet",
        "test_convnext",
        "test_efficientnet",
        "test_nfnet",
        "test_resnet",
        "test_vit",
        "test_vit2",
    ],
)
def test_a_graph_answers_as_its_weights_do(architecture: str, tmp_path: Path) -> None:
    hub_bundle(tmp_path / "bundle", architecture)
    exported = export(tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.graph is not None
    assert manifest.graph.parity == exported.parity <= PARITY_TOLERANCE
    session = open_graph(exported.path, manifest)
    pixels = np.random.default_rng(9).integers(
        0, 256, (3, *manifest.preprocessing.input_size, 3), dtype=np.uint8
    )
    found = probabilities(torch.from_numpy(session(pixels)), manifest)
    np.testing.assert_allclose(
        found, answers(load_module(manifest), manifest, pixels), atol=PARITY_TOLERANCE
    )


def test_the_weights_are_there_once_and_the_same_bundle_gives_the_same_bytes(
    bundle: Path,
) -> None:
    export(bundle)
    first = contents(bundle)
    graph = onnx.load(bundle / GRAPH, load_external_data=False)
    external = [t for t in graph.graph.initializer if t.data_location == t.EXTERNAL]
    assert {t.external_data[0].value for t in external} == {WEIGHTS}
    embedded = sum(len(t.raw_data) for t in graph.graph.initializer)
    assert embedded < len(first[WEIGHTS]) / 10
    export(bundle)
    assert contents(bundle) == first


def test_what_the_bundle_said_of_itself_it_still_says(tmp_path: Path) -> None:
    shutil.copytree(DEBUG, tmp_path / "bundle")
    before = json.loads((tmp_path / "bundle" / REALFAKE).read_text())
    export(tmp_path / "bundle")
    after = json.loads((tmp_path / "bundle" / REALFAKE).read_text())
    # The weights' own answers differ in the last bits by torch's number of threads.
    assert max(document["onnx"].pop("parity") for document in (before, after)) < PARITY_TOLERANCE
    assert after == before


def test_the_committed_graph_answers_as_its_weights_do() -> None:
    assert any(line.startswith("model.onnx answers within") for line in verify(DEBUG))


def test_a_graph_made_at_the_start_is_the_one_that_export_writes(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    in_memory = exported_session(manifest)
    assert sorted(contents(bundle)) == [CONFIG, WEIGHTS]
    export(bundle)
    written = open_graph(bundle / GRAPH, manifest)
    pixels = np.full((2, *manifest.preprocessing.input_size, 3), 100, np.uint8)
    np.testing.assert_array_equal(in_memory(pixels), written(pixels))


# Refused, and left as it was


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = contents(bundle)
    with (
        files_no_larger_than(1024),
        pytest.raises(BundleError, match="cannot be written: File too large"),
    ):
        export(bundle)
    assert contents(bundle) == before


class _Branching(torch.nn.Module):
    """Its answer turns on what the pictures are, in Python: a trace sees one side."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(batch)
        return logits if float(batch.mean()) < -0.5 else logits.flip(1)


class _Unknown(torch.nn.Module):
    """Does what ONNX has no operator for."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.linalg.svdvals(batch)
        return values.sum((1, 2))[:, None].repeat(1, 2)


class _OneSize(torch.nn.Module):
    """Has the number of the example's pictures built into it."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.mean((2, 3))[:, :2] * torch.ones(len(batch), 1)


@pytest.mark.parametrize(
    ("wrapped", "reason"),
    [
        (_Branching, "its ONNX graph answers differently from the weights"),
        (lambda network: _Unknown(), "cannot export it to ONNX; serve it with model.engine torch"),
        (lambda network: _OneSize(), "its ONNX graph answers differently from the weights"),
    ],
    ids=["a branch", "an unknown layer", "one batch size"],
)
def test_a_network_without_such_a_graph_is_refused(
    wrapped: Callable[[torch.nn.Module], torch.nn.Module],
    reason: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """timm has none small enough to be tested with, so the loader hands one out."""
    before = contents(bundle)
    monkeypatch.setattr(
        "predictor.bundle.export.load_module", lambda manifest: wrapped(load_module(manifest))
    )
    with pytest.raises(BundleError, match=reason):
        export(bundle)
    assert contents(bundle) == before
    with pytest.raises(BundleError, match=reason):
        exported_session(read_manifest(bundle))


# What a reader of the bundle checks


def redigested(bundle: Path) -> None:
    """Let the files match their digests again, as after an honest edit."""
    own = json.loads((bundle / REALFAKE).read_text())
    own["files"] = {name: sha256(bundle / name) for name in own["files"]}
    (bundle / REALFAKE).write_text(json.dumps(own))


def other_weights(bundle: Path) -> None:
    file = bundle / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    redigested(bundle)


def other_preprocessing(bundle: Path) -> None:
    config = json.loads((bundle / CONFIG).read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (bundle / CONFIG).write_text(json.dumps(config))
    redigested(bundle)


def no_digest(bundle: Path) -> None:
    own = json.loads((bundle / REALFAKE).read_text())
    del own["files"][GRAPH]
    (bundle / REALFAKE).write_text(json.dumps(own))


def other_graph(bundle: Path) -> None:
    (bundle / GRAPH).write_bytes((bundle / GRAPH).read_bytes() + b"\0")


def without(bundle: Path) -> None:
    (bundle / GRAPH).unlink()


def parity_is(value: Any) -> Callable[[Path], None]:
    return lambda bundle: set_own(bundle, "onnx.parity", value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_weights, r"onnx: exported_from: model\.safetensors.*made from another one"),
        (other_preprocessing, r"onnx: exported_from: config\.json.*made from another one"),
        (no_digest, "must hold the SHA-256 of model.onnx"),
        (other_graph, "model.onnx: its SHA-256 is not the one"),
        (without, "names 'model.onnx', which is not a file"),
        (parity_is(1e-3), "onnx: parity: must be"),
        (parity_is(-1), "onnx: parity: must be"),
        (parity_is("NaN"), "onnx: parity: must be"),
        (parity_is(None), "onnx: parity: must be"),
    ],
)
def test_a_graph_that_is_not_of_this_bundle_is_refused_and_made_again(
    change: Callable[[Path], None], reason: str, bundle: Path
) -> None:
    export(bundle)
    change(bundle)
    with pytest.raises(BundleError, match=reason):
        read_manifest(bundle)
    export(bundle)
    assert read_manifest(bundle).graph is not None


def test_a_graph_that_nobody_vouches_for_is_not_served(bundle: Path) -> None:
    """Put beside the weights by hand, it has neither parity nor digest."""
    shutil.copy(DEBUG / GRAPH, bundle / GRAPH)
    assert read_manifest(bundle).graph is None


def test_weights_in_another_file_are_not_read(bundle: Path) -> None:
    """No digest covers it, so the answers could change under the same one."""
    export(bundle)
    graph = onnx.load(bundle / GRAPH, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "extra.bin"
    (bundle / "extra.bin").write_bytes((bundle / WEIGHTS).read_bytes())
    (bundle / GRAPH).write_bytes(graph.SerializeToString())
    redigested(bundle)
    with pytest.raises(BundleError, match=r"cannot load it with model\.safetensors"):
        open_graph(bundle / GRAPH, read_manifest(bundle))


def test_verify_finds_a_graph_that_answers_otherwise(bundle: Path) -> None:
    """Digests and parity vouch for a graph; whoever writes all of them can still be wrong."""
    export(bundle)
    graph = onnx.load(bundle / GRAPH, load_external_data=False)
    [mean] = [t for t in graph.graph.initializer if t.name == "mean"]
    mean.raw_data = np.full((1, 3, 1, 1), 0.9, np.float32).tobytes()
    (bundle / GRAPH).write_bytes(graph.SerializeToString())
    redigested(bundle)
    with pytest.raises(BundleError, match="answers differently from the weights"):
        verify(bundle)
