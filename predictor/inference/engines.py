"""Which engine serves a bundle here, and making it; torch is imported only where it is used."""

from __future__ import annotations

import logging
from glob import glob
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from predictor.bundle.files import GRAPH
from predictor.bundle.graph import Session
from predictor.bundle.manifest import Manifest
from predictor.errors import BundleError, SettingsError
from predictor.inference.engine import Engine
from predictor.inference.onnx_engine import OnnxEngine
from predictor.settings import ModelSettings

log = logging.getLogger("predictor.engines")

Kind: TypeAlias = Literal["torch", "onnx"]

GPU_NODES: Final = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")
"""What a process needs to reach a GPU of NVIDIA, one under WSL, one of AMD."""


def make_engine(manifest: Manifest, settings: ModelSettings) -> Engine:
    """Build the engine that `model.engine` asks for, cold.

    Raises:
        BundleError: the bundle cannot be run by it.
        SettingsError: the device or the engine is not to be had here.
    """
    if choose(manifest, settings) == "torch":
        return _torch_engine(manifest, settings)
    if not _installed("onnxruntime"):
        raise SettingsError(
            "model.engine: onnx needs onnxruntime, which is not installed; set auto or torch"
        )
    try:
        session = _session(manifest)
    except BundleError as error:
        if settings.engine == "onnx" or manifest.graph is not None:
            raise
        log.warning("served with torch instead of onnx", extra={"reason": error.message})
        return _torch_engine(manifest, settings)
    return OnnxEngine(session, manifest.preprocessing.input_size)


def choose(manifest: Manifest, settings: ModelSettings) -> Kind:
    """The engine for a bundle: on a GPU torch; on a CPU ONNX Runtime where it can be had."""
    if settings.engine != "auto":
        return settings.engine
    if settings.device.startswith("cuda") or settings.dtype in ("fp16", "bf16"):
        return "torch"
    if settings.device == "auto" and gpu_is_here() and _installed("torch"):
        return "torch"
    has_graph = manifest.graph is not None or _installed("torch")
    return "onnx" if has_graph and _installed("onnxruntime") else "torch"


def gpu_is_here() -> bool:
    """Whether this process could reach a GPU; asking torch would take seconds and 500 MB."""
    return any(glob(pattern) for pattern in GPU_NODES)


def _torch_engine(manifest: Manifest, settings: ModelSettings) -> Engine:
    from predictor.bundle.loader import load_module
    from predictor.inference.torch_engine import TorchEngine

    return TorchEngine(
        load_module(manifest),
        manifest.preprocessing,
        device=settings.device,
        dtype=settings.dtype,
    )


def _session(manifest: Manifest) -> Session:
    """The bundle's own graph, or one that is made now and lives in memory only."""
    size = manifest.preprocessing.input_size
    if manifest.graph is not None:
        return Session(manifest.path / GRAPH, input_size=size, num_classes=manifest.num_classes)
    if not _installed("torch"):
        raise SettingsError(
            "model.engine: the bundle has no model.onnx, and torch is not here to make one; run "
            "`python -m predictor model export` where it is"
        )
    from predictor.bundle.export import exported_session

    return exported_session(manifest)


def _installed(package: str) -> bool:
    return find_spec(package) is not None
