"""From a bundle to a network: safetensors (or, by choice, a pickle) → timm module."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from predictor.bundle.manifest import Manifest
from predictor.errors import BundleError

# Arguments of timm's factory that are not the network's: they would read other files, or put the
# module elsewhere.
_NOT_FOR_BUNDLES: Final = frozenset(signature(timm.create_model).parameters) | {
    *("device", "dtype", "features_only", "pretrained_strict", "pretrained_model_args"),
}


def load_module(manifest: Manifest) -> torch.nn.Module:
    """Build the network, fill it, and see that it answers.

    Returns:
        In evaluation mode, float32, on the CPU; (N, 3, H, W) in, logits (N, K) out.

    Raises:
        BundleError: unknown architecture; unreadable weights; missing, unexpected or
            mis-shaped tensors; NaN or infinity among them; no logits for a picture.
    """
    size = manifest.preprocessing.input_size
    module = build_module(
        manifest.architecture, manifest.num_classes, manifest.model_args, input_size=size
    )
    fill_module(module, read_weights(manifest.weights), manifest.weights.name)
    module.eval()
    _try(module, manifest.num_classes, size)
    return module


def build_module(
    architecture: str,
    num_classes: int,
    model_args: Mapping[str, Any] | None = None,
    *,
    input_size: tuple[int, int] | None = None,
) -> torch.nn.Module:
    """Let timm build a network with random weights.

    Args:
        model_args: as `save_for_hf` writes them.
        input_size: (height, width); for networks that are built for one size only.

    Raises:
        BundleError: timm has no such network, or does not build it with these arguments.
    """
    if not timm.is_model(architecture):
        near = timm.list_models(f"{architecture[:6]}*")[:3]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise BundleError(f"config.json: architecture: timm {timm.__version__} has none such{hint}")
    arguments = {"num_classes": num_classes, **(model_args or {})}
    foreign = sorted(arguments.keys() & _NOT_FOR_BUNDLES)
    if foreign:
        raise BundleError(f"config.json: model_args: {foreign[0]}: is not for a bundle to say")
    if arguments["num_classes"] != num_classes:
        raise BundleError(f"config.json: model_args: num_classes: must be {num_classes}")
    overlay = None if input_size is None else {"input_size": (3, *input_size)}
    try:
        module: torch.nn.Module = timm.create_model(
            architecture, pretrained=False, pretrained_cfg_overlay=overlay, **arguments
        )
    except Exception:  # each architecture has its own way to fail on arguments
        raise BundleError(
            f"config.json: architecture, model_args: timm {timm.__version__} cannot build "
            f"{architecture} with these"
        ) from None
    return module


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict; a pickle with `weights_only=True`, which cannot run code.

    Raises:
        BundleError: the file is cut short, not what its name says, or holds more than tensors.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read: {error.strerror}") from None
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError):
            raise BundleError(f"{path.name}: is not a readable safetensors file") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged bytes make the unpickler raise whatever they lead it to
        raise BundleError(
            f"{path.name}: cannot be read with weights_only=True: it is damaged, or holds more "
            "than tensors. Save the state_dict alone."
        ) from None
    return _state_dict(loaded, path.name)


def _state_dict(loaded: Any, name: str) -> dict[str, torch.Tensor]:
    for wrapper in ("state_dict", "model", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in loaded.items()
    ):
        raise BundleError(f"{name}: must hold a state dict: names and tensors")
    tensors = {key.removeprefix("module."): tensor for key, tensor in loaded.items()}
    if len(tensors) < len(loaded):
        raise BundleError(f"{name}: holds a tensor twice, with and without `module.`")
    return tensors


def fill_module(module: torch.nn.Module, tensors: dict[str, torch.Tensor], name: str) -> None:
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise BundleError(f"{name}: lacks {_some(missing)}; is it for another architecture?")
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise BundleError(f"{name}: has unknown {_some(unexpected)}; another architecture?")
    for key, tensor in tensors.items():
        if tensor.is_complex():
            raise BundleError(f"{name}: {key} holds complex numbers")
        if tensor.shape != expected[key].shape:
            raise BundleError(
                f"{name}: {key} has shape {tuple(tensor.shape)}, the architecture with this "
                f"number of classes needs {tuple(expected[key].shape)}"
            )
    try:
        module.load_state_dict(tensors)
    except RuntimeError:
        raise BundleError(f"{name}: holds tensors that are not plain numbers") from None
    # Only now: what is finite in float64 may be infinite in float32.
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{name}: {key} holds NaN or infinity; the training diverged")


def _try(module: torch.nn.Module, num_classes: int, size: tuple[int, int]) -> None:
    """See that a white picture gets logits: a network may be built for another size or use."""
    try:
        with torch.inference_mode():
            logits = module(torch.ones(1, 3, *size))
    except Exception:  # any layer can be the one that the size does not suit
        logits = None
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        raise BundleError(
            f"config.json: pretrained_cfg: input_size: pictures of {size[0]}x{size[1]} get no "
            f"{num_classes} logits from this architecture with its model_args"
        )
    if not torch.isfinite(logits).all():
        raise BundleError("the weights are finite, but the answer to a white picture is not")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
