"""From a bundle to a network: safetensors (or, by choice, a pickle) → timm module."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from predictor.bundle.manifest import Manifest
from predictor.errors import BundleError


def load_module(manifest: Manifest) -> torch.nn.Module:
    """Build the network and fill it.

    Returns:
        In evaluation mode, float32, on the CPU; (N, 3, H, W) in, logits (N, K) out.

    Raises:
        BundleError: unknown architecture; unreadable weights; missing, unexpected or
            mis-shaped tensors; NaN or infinity among them.
    """
    module = build_module(manifest.architecture, manifest.num_classes, dict(manifest.model_args))
    tensors = read_weights(manifest.weights)
    fill_module(module, tensors, manifest.weights.name)
    return module.eval()


def build_module(
    architecture: str, num_classes: int, model_args: dict[str, Any]
) -> torch.nn.Module:
    if not timm.is_model(architecture):
        near = timm.list_models(f"{architecture[:6]}*")[:3]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise BundleError(f"config.json: architecture: timm {timm.__version__} has none such{hint}")
    try:
        module: torch.nn.Module = timm.create_model(
            architecture, pretrained=False, num_classes=num_classes, **model_args
        )
    except (TypeError, ValueError, RuntimeError):
        raise BundleError("config.json: model_args: this architecture does not take them") from None
    return module


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict; a pickle with `weights_only=True`, which cannot run code.

    Raises:
        BundleError: the file is cut short, not what its name says, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError):
            raise BundleError(f"{path.name}: is not a readable safetensors file") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise BundleError(
            f"{path.name}: cannot be read with weights_only=True: it is damaged, or holds more "
            "than tensors. Save the state_dict alone."
        ) from None
    for wrapper in ("state_dict", "model", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(
        isinstance(t, torch.Tensor) for t in loaded.values()
    ):
        raise BundleError(f"{path.name}: must hold a state dict: names and tensors")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def fill_module(module: torch.nn.Module, tensors: dict[str, torch.Tensor], name: str) -> None:
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise BundleError(f"{name}: lacks {_some(missing)}; is it for another architecture?")
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise BundleError(f"{name}: has unknown {_some(unexpected)}; another architecture?")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise BundleError(
                f"{name}: {key} has shape {tuple(tensor.shape)}, the architecture with this "
                f"number of classes needs {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{name}: {key} holds NaN or infinity; the training diverged")
    module.load_state_dict(tensors)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
