"""What `python -m predictor model …` does: look at a bundle, prove it, make one from a `.pth`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from predictor.bundle.answers import answers
from predictor.bundle.export import open_graph, parity
from predictor.bundle.files import CONFIG, GOLDEN, GRAPH, WEIGHTS, write_realfake_json
from predictor.bundle.loader import build_module, fill_module, load_module, read_weights
from predictor.bundle.manifest import Manifest, read_golden_vectors, read_manifest
from predictor.errors import BundleError

GOLDEN_TOLERANCE = 1e-4
GOLDEN_COUNT = 4


def inspect(path: Path, *, allow_pth: bool = False) -> dict[str, Any]:
    """Describe a bundle as plain data.

    Raises:
        BundleError: it cannot be described.
    """
    manifest = read_manifest(path, allow_pth=allow_pth)
    described = asdict(manifest)
    described["path"], described["weights"] = str(manifest.path), manifest.weights.name
    return described


def verify(path: Path, *, allow_pth: bool = False) -> list[str]:
    """Prove a bundle as a server would before it is ready, on the CPU.

    Returns:
        What was proven, a line each.

    Raises:
        BundleError: the first thing that does not hold.
    """
    manifest = read_manifest(path, allow_pth=allow_pth)
    proven = [
        f"{len(manifest.files)} digests match"
        if manifest.files
        else "no realfake.json: nothing says what the digests should be"
    ]
    module = load_module(manifest)
    proven.append(f"{manifest.architecture}: every tensor is there, finite and of its shape")
    if manifest.graph is not None:
        difference = parity(module, open_graph(manifest.path / GRAPH, manifest), manifest)
        proven.append(f"{GRAPH} answers within {difference:.1g} of the weights")
    golden = read_golden_vectors(manifest)
    if golden is None:
        return [*proven, "no golden vectors to replay"]
    difference = float(
        np.abs(answers(module, manifest, golden.pixels) - golden.probabilities).max()
    )
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(f"golden vectors: an answer differs by {difference:.2g}")
    return [*proven, f"{len(golden.pixels)} golden vectors answered within {difference:.1g}"]


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
