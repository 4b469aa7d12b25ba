"""What `python -m predictor model convert` does: make a bundle from a `.pth`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from predictor.bundle.answers import answers
from predictor.bundle.files import CONFIG, GOLDEN, WEIGHTS, write_realfake_json
from predictor.bundle.loader import build_module, fill_module, load_module, read_weights
from predictor.bundle.manifest import Manifest, read_manifest
from predictor.errors import BundleError

GOLDEN_COUNT = 4


def convert(
    checkpoint: Path,
    output: Path,
    *,
    architecture: str,
    label_names: Sequence[str],
    fake_labels: Sequence[str],
    input_size: int | None = None,
    version: str = "1",
) -> Manifest:
    """Make a bundle from a pickled state dict (read with `weights_only=True`).

    Labels that are not named in `fake_labels` mean real. Thresholds are left at 0.5 and the
    temperature at 1: nobody has calibrated this model yet. Of a refused bundle nothing is left.

    Args:
        input_size: side in pixels of what the network sees; timm's own where None.

    Raises:
        BundleError: the checkpoint does not fit, or `output` is not empty or not writable.
    """
    size = None if input_size is None else (input_size, input_size)
    module = build_module(architecture, len(label_names), input_size=size)
    fill_module(module, read_weights(checkpoint), checkpoint.name)
    real_labels = [name for name in label_names if name not in fake_labels]
    fields = {
        "version": version,
        "temperature": 1.0,
        "labels": {"fake": list(fake_labels), "real": real_labels},
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise BundleError(f"{output}: is not empty; name a new directory")
        with tempfile.TemporaryDirectory(prefix=".making-", dir=output) as temporary:
            making = Path(temporary)
            _write_config(making, module, architecture, label_names, size)
            _write_bundle(making, module, fields)
            for file in sorted(making.iterdir()):
                file.replace(output / file.name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise BundleError(f"{output}: cannot be written: {reason}") from None
    return read_manifest(output)


def _write_config(
    making: Path,
    module: torch.nn.Module,
    architecture: str,
    label_names: Sequence[str],
    size: tuple[int, int] | None,
) -> None:
    cfg = dict(getattr(module, "pretrained_cfg", None) or {})
    known = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    preprocessing = {name: cfg[name] for name in known if cfg.get(name) is not None}
    if size is not None:
        preprocessing["input_size"] = [3, *size]
    config = {
        "architecture": architecture,
        "num_classes": len(label_names),
        "label_names": list(label_names),
        "pretrained_cfg": preprocessing,
    }
    (making / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_bundle(making: Path, module: torch.nn.Module, fields: dict[str, Any]) -> None:
    """Write weights, golden vectors and `realfake.json` beside the configuration."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_tensors(state, making / WEIGHTS)
    write_realfake_json(making, fields)
    manifest = read_manifest(making)
    module = load_module(manifest)
    height, width = manifest.preprocessing.input_size
    noise = np.random.default_rng(0).integers(
        0, 256, (GOLDEN_COUNT, height, width, 3), dtype=np.uint8
    )
    golden: dict[str, NDArray[Any]] = {
        "pixels": noise,
        "probabilities": answers(module, manifest, noise),
    }
    save_file(golden, making / GOLDEN)
    write_realfake_json(making, fields)
