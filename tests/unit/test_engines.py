"""Which engine serves: by the settings, the bundle, and what is installed here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.bundle import export as exporting
from predictor.bundle import packages
from predictor.bundle.files import GRAPH
from predictor.bundle.manifest import Manifest, read_manifest
from predictor.errors import BundleError, SettingsError
from predictor.inference import engines
from predictor.inference.engines import choose, make_engine
from predictor.settings import ModelSettings
from tests.unit.bundles import hub_bundle

DEBUG = Path(__file__).parents[2] / "checkpoints" / "debug"
EVERYTHING = {"torch", "onnxruntime"}


@pytest.fixture
def bare(tmp_path: Path) -> Manifest:
    """A bundle as timm writes it, without a graph."""
    hub_bundle(tmp_path / "bundle")
    return read_manifest(tmp_path / "bundle")


def here(monkeypatch: pytest.MonkeyPatch, *, installed: set[str], gpu: bool = False) -> None:
    for module in (engines, packages):
        monkeypatch.setattr(module, "installed", installed.__contains__)
    monkeypatch.setattr(engines, "gpu_is_here", lambda: gpu)


@pytest.mark.parametrize(
    ("settings", "gpu", "installed", "expected"),
    [
        ({}, False, EVERYTHING, "onnx"),
        ({}, False, {"onnxruntime"}, "onnx"),
        ({}, False, {"torch"}, "torch"),
        ({}, True, EVERYTHING, "torch"),
        ({}, True, {"onnxruntime"}, "onnx"),
        ({"device": "cpu"}, True, EVERYTHING, "onnx"),
        ({"device": "cuda:1"}, False, EVERYTHING, "torch"),
        ({"dtype": "bf16"}, False, EVERYTHING, "torch"),
        ({"dtype": "fp32"}, False, EVERYTHING, "onnx"),
        ({"engine": "torch"}, False, EVERYTHING, "torch"),
        ({"engine": "onnx"}, True, EVERYTHING, "onnx"),
    ],
)
def test_the_engine_is_the_fastest_that_can_be_had(
    *,
    settings: dict[str, Any],
    gpu: bool,
    installed: set[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here(monkeypatch, installed=installed, gpu=gpu)
    assert choose(ModelSettings(path=DEBUG, **settings)) == expected


def test_a_gpu_is_seen_by_its_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "GPU_NODES", (f"{tmp_path}/nvidia[0-9]*",))
    (tmp_path / "nvidiactl").touch()  # there without any GPU given to this container
    assert not engines.gpu_is_here()
    (tmp_path / "nvidia0").touch()
    assert engines.gpu_is_here()


def test_a_bundle_without_a_graph_gets_one_at_the_start(bare: Manifest) -> None:
    engine = make_engine(bare, ModelSettings(path=bare.path, device="cpu"))
    assert (engine.name, engine.device) == ("onnx", "cpu")
    assert not (bare.path / GRAPH).exists()


def unexportable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("an operator that ONNX has not")

    monkeypatch.setattr(torch.onnx, "export", refuse)


def test_a_network_that_onnx_cannot_run_is_served_with_torch(
    bare: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unexportable(monkeypatch)
    assert make_engine(bare, ModelSettings(path=bare.path, device="cpu")).name == "torch"
    [line] = [record for record in caplog.records if record.name == "predictor.engines"]
    assert "cannot export it to ONNX" in line.__dict__["reason"]


def test_asked_for_it_is_refused(bare: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    unexportable(monkeypatch)
    settings = ModelSettings(path=bare.path, device="cpu", engine="onnx")
    with pytest.raises(BundleError, match=f"{exporting.EXPORTER} cannot export it"):
        make_engine(bare, settings)


def test_a_broken_graph_is_never_passed_over_in_silence(tmp_path: Path) -> None:
    """Serving with torch instead would hide a bundle that is not what it says."""
    shutil.copytree(DEBUG, tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    (tmp_path / "bundle" / GRAPH).write_bytes(b"")
    with pytest.raises(BundleError, match="cannot load it"):
        make_engine(manifest, ModelSettings(path=manifest.path, device="cpu"))


def test_onnx_without_onnxruntime_is_named(bare: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, installed={"torch"})
    with pytest.raises(SettingsError, match="onnx needs onnxruntime, which is not installed"):
        make_engine(bare, ModelSettings(path=bare.path, engine="onnx"))


@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_without_torch_a_bundle_needs_its_graph(
    engine: Any, bare: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, installed={"onnxruntime"})
    with pytest.raises(BundleError, match="run `python -m predictor model export` on the"):
        make_engine(bare, ModelSettings(path=bare.path, engine=engine))


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"engine": "torch"}, "model.engine: torch"),
        ({"device": "cuda:1"}, "model.device: cuda:1"),
        ({"dtype": "bf16"}, "model.dtype: bf16"),
    ],
)
def test_what_asks_for_torch_is_named(
    settings: dict[str, Any], asked: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, installed={"onnxruntime"})
    with pytest.raises(SettingsError) as refused:
        make_engine(manifest, ModelSettings(path=DEBUG, **settings))
    assert refused.value.message.startswith(f"{asked} needs torch, which is not installed here; ")


@pytest.mark.parametrize(("device", "lines"), [("auto", 1), ("cpu", 0)])
def test_a_gpu_that_nothing_uses_is_said(
    device: str,
    lines: int,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The image for CPUs on a node with a GPU: it serves, and costs what it does not use."""
    here(monkeypatch, installed={"onnxruntime"}, gpu=True)
    assert make_engine(manifest, ModelSettings(path=DEBUG, device=device)).device == "cpu"
    logged = [record.message for record in caplog.records if record.name == "predictor.engines"]
    assert logged == ["served on the CPU beside a GPU"] * lines
