"""Which engine serves a bundle here, and making it; torch is imported only where it is used."""

from __future__ import annotations

import logging
from glob import glob
from typing import Final, Literal, TypeAlias

from predictor.bundle.files import GRAPH
from predictor.bundle.graph import Session, open_graph
from predictor.bundle.manifest import Manifest
from predictor.bundle.packages import NO_GRAPH, WITH_TORCH, installed, require_torch
from predictor.errors import BundleError, SettingsError
from predictor.inference.engine import Engine
from predictor.inference.onnx_engine import OnnxEngine
from predictor.settings import ModelSettings, Settings

log = logging.getLogger("predictor.engines")

Kind: TypeAlias = Literal["torch", "onnx"]

GPU_NODES: Final = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")
"""What a process needs to reach a GPU of NVIDIA, one under WSL, one of AMD."""

_NO_GPU: Final = f"a GPU needs torch, which is not installed here; {WITH_TORCH}"


def make_engine(manifest: Manifest, settings: ModelSettings) -> Engine:
    """Build the engine that `model.engine` asks for, cold.

    Raises:
        BundleError: the bundle cannot be run by it.
        SettingsError: the device or the engine is not to be had here.
    """
    if choose(settings) == "torch":
        require_torch(_asks_for_torch(settings), "set it to auto, or ")
        return _torch_engine(manifest, settings)
    if not installed("onnxruntime"):
        raise SettingsError(
            "model.engine: onnx needs onnxruntime, which is not installed; set auto or torch"
        )
    _warn_of_a_gpu(settings)
    try:
        session = _session(manifest)
    except BundleError as error:
        if settings.engine == "onnx" or manifest.graph is not None or not installed("torch"):
            raise
        log.warning("served with torch instead of onnx", extra={"reason": error.message})
        return _torch_engine(manifest, settings)
    return OnnxEngine(session, manifest.preprocessing.input_size)


def runs_in_lanes(manifest: Manifest, settings: Settings) -> bool:
    """Whether decoder processes can run the network as well: they load it themselves, from the
    bundle, and never torch."""
    if (
        choose(settings.model) != "onnx"
        or settings.decoding.mode != "process"
        or manifest.graph is None
        or not installed("onnxruntime")
    ):
        return False
    _warn_of_a_gpu(settings.model)
    return True


def _warn_of_a_gpu(settings: ModelSettings) -> None:
    if settings.engine == settings.device == "auto" and gpu_is_here():
        # Only without torch. Somebody pays for a GPU that nothing uses.
        log.warning("served on the CPU beside a GPU", extra={"reason": _NO_GPU})


def choose(settings: ModelSettings) -> Kind:
    """The engine for any bundle: on a GPU torch; on a CPU ONNX Runtime where it can be had."""
    if settings.engine != "auto":
        return settings.engine
    if settings.device.startswith("cuda") or settings.dtype in ("fp16", "bf16"):
        return "torch"
    if settings.device == "auto" and gpu_is_here() and installed("torch"):
        return "torch"
    return "torch" if installed("torch") and not installed("onnxruntime") else "onnx"


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
        cuda_graphs=settings.cuda_graphs,
    )


def _asks_for_torch(settings: ModelSettings) -> str:
    """Which setting it is that only torch can do."""
    if settings.engine == "torch":
        return "model.engine: torch"
    if settings.device.startswith("cuda"):
        return f"model.device: {settings.device}"
    return f"model.dtype: {settings.dtype}"


def _session(manifest: Manifest) -> Session:
    """The bundle's own graph, or one that is made now and lives in memory only."""
    if manifest.graph is not None:
        return open_graph(manifest.path / GRAPH, manifest)
    if not installed("torch"):
        raise BundleError(NO_GRAPH)
    from predictor.bundle.export import exported_session

    return exported_session(manifest)
