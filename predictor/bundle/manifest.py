"""A bundle's description: labels, preprocessing, calibration, thresholds, digests.

A bundle is a directory in timm's hub layout (`config.json`, `model.safetensors`), optionally
with `realfake.json`. Nothing here imports torch: a manifest is read in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.fields import Fields
from predictor.bundle.verdicts import Threshold, Verdicts
from predictor.errors import BundleError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
REALFAKE: Final = "realfake.json"
GOLDEN: Final = "golden.safetensors"
FORMAT_VERSION: Final = 1

INTERPOLATIONS: Final = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
CROP_MODES: Final = ("center", "squash", "border")

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
DEFAULT_CROP_PCT: Final = 0.875
"""These and 224 px bicubic are what `timm.data.resolve_data_config` assumes when unsaid."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """timm's evaluation transform, in its own terms.

    Attributes:
        input_size: (height, width) in pixels of what the network sees.
        mean, std: per RGB channel, for values in 0..1.
    """

    input_size: tuple[int, int]
    interpolation: str = "bicubic"
    crop_pct: float = DEFAULT_CROP_PCT
    crop_mode: str = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a bundle but its weights.

    Attributes:
        temperature: divides the logits before softmax (Guo et al., 2017).
        digest: SHA-256 over the names and digests of the bundle's files: the model's identity.
        files: SHA-256 in hex by file name, as declared and verified; empty without realfake.json.
        metrics: what the bundle says it reached; shown, never used.
    """

    path: Path
    weights: Path
    architecture: str
    num_classes: int
    label_names: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    verdicts: Verdicts
    version: str
    digest: str
    files: Mapping[str, str] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Inputs whose answers are known: uint8 (n, H, W, 3) and float32 (n, K), calibrated."""

    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def find_bundle(path: Path) -> Path:
    """Return `path`, or the one directory below it that holds a bundle, as KServe may mount it.

    Raises:
        BundleError: none, or several.
    """
    if not path.is_dir():
        raise BundleError(f"model.path: {path} is not a directory; mount or name a model bundle")
    if (path / CONFIG).is_file():
        return path
    below = sorted(entry for entry in path.iterdir() if (entry / CONFIG).is_file())
    if len(below) != 1:
        found = "several bundles" if below else f"no {CONFIG}"
        raise BundleError(
            f"model.path: {found} in {path} or directly below it; a bundle is a directory with "
            f"{CONFIG} and {WEIGHTS}, as timm's save_for_hf writes it"
        )
    return below[0]


def read_manifest(path: Path, *, allow_pth: bool = False) -> Manifest:
    """Read and check a bundle's description, its files' digests included.

    Args:
        allow_pth: accept a lone pickled `.pth` file as the weights.

    Raises:
        BundleError: naming the file, the field and the fix.
    """
    root = find_bundle(path)
    config = Fields.read(root / CONFIG)
    cfg = config.mapping("pretrained_cfg", {})
    labels = _labels(config, cfg)
    weights = _weights(root, allow_pth)
    own = Fields.read(root / REALFAKE) if (root / REALFAKE).is_file() else Fields({}, REALFAKE)
    files = _verified_files(root, own, weights)
    temperature = own.number("temperature", 1.0)
    if temperature <= 0:
        raise own.wrong("temperature", "must be above 0")
    return Manifest(
        path=root,
        weights=weights,
        architecture=config.text("architecture"),
        num_classes=len(labels),
        label_names=labels,
        preprocessing=_preprocessing(cfg),
        temperature=temperature,
        verdicts=_verdicts(own, labels),
        version=own.text("version", "1"),
        digest=_identity(root, weights, files),
        files=files,
        model_args=dict(config.mapping("model_args", {}).values),
        metrics=dict(own.mapping("metrics", {}).values),
    )


def read_golden_vectors(manifest: Manifest) -> GoldenVectors | None:
    """Read `golden.safetensors`, or None where the bundle has none.

    Raises:
        BundleError: it is not what this model could have answered.
    """
    file = manifest.path / GOLDEN
    if not file.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError):
        raise BundleError(f"{GOLDEN}: cannot be read; make the bundle again") from None
    pixels, probabilities = tensors.get("pixels"), tensors.get("probabilities")
    height, width = manifest.preprocessing.input_size
    if (
        pixels is None
        or probabilities is None
        or pixels.dtype != np.uint8
        or pixels.shape[1:] != (height, width, 3)
        or probabilities.shape != (len(pixels), manifest.num_classes)
        or not np.isfinite(probabilities).all()
    ):
        raise BundleError(
            f"{GOLDEN}: must hold pixels uint8 (n, {height}, {width}, 3) and probabilities "
            f"float32 (n, {manifest.num_classes}); make the bundle again"
        )
    return GoldenVectors(pixels, probabilities.astype(np.float32))


def write_realfake_json(directory: Path, fields: Mapping[str, Any]) -> None:
    """Write `realfake.json` with the digests of the bundle's files as they are now."""
    names = [name for name in (CONFIG, WEIGHTS, GOLDEN) if (directory / name).is_file()]
    document = {
        "format_version": FORMAT_VERSION,
        **fields,
        "files": {name: _sha256(directory / name) for name in names},
    }
    (directory / REALFAKE).write_text(json.dumps(document, indent=2) + "\n")


def _labels(config: Fields, cfg: Fields) -> tuple[str, ...]:
    source = config if "label_names" in config.values else cfg
    names = source.texts("label_names")
    if len(names) < 2:
        raise source.wrong("label_names", "must name at least two classes")
    if len(set(names)) != len(names):
        raise source.wrong("label_names", "names a class twice")
    declared = config.values.get("num_classes", cfg.values.get("num_classes", len(names)))
    if declared != len(names):
        raise config.wrong("num_classes", f"is {declared!r}, but there are {len(names)} labels")
    return names


def _preprocessing(cfg: Fields) -> Preprocessing:
    size = cfg.numbers("input_size", (3, 224, 224))
    if len(size) != 3 or size[0] != 3 or any(side != int(side) or side < 1 for side in size):
        raise cfg.wrong("input_size", "must be [3, height, width]")
    interpolation = cfg.text("interpolation", "bicubic")
    if interpolation not in INTERPOLATIONS:
        raise cfg.wrong("interpolation", f"must be one of {', '.join(INTERPOLATIONS)}")
    crop_mode = cfg.text("crop_mode", "center")
    if crop_mode not in CROP_MODES:
        raise cfg.wrong("crop_mode", f"must be one of {', '.join(CROP_MODES)}")
    crop_pct = cfg.number("crop_pct", DEFAULT_CROP_PCT)
    if not 0 < crop_pct <= 1:
        raise cfg.wrong("crop_pct", "must be above 0 and at most 1")
    mean, std = cfg.numbers("mean", IMAGENET_MEAN), cfg.numbers("std", IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise cfg.wrong("std", "mean and std must each be three numbers, std above 0")
    return Preprocessing(
        (int(size[1]), int(size[2])),
        interpolation,
        crop_pct,
        crop_mode,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )


def _verdicts(own: Fields, labels: tuple[str, ...]) -> Verdicts:
    meaning = own.mapping("labels", {})
    fake = _indices(meaning, "fake", labels)
    real = _indices(meaning, "real", labels)
    if sorted(fake + real) != list(range(len(labels))):
        raise meaning.wrong(
            "fake", "labels.fake and labels.real must hold every label exactly once"
        )
    thresholds = own.mapping("thresholds", {})
    high = _threshold(thresholds, "fake_at_least", "false_positive_rate")
    low = _threshold(thresholds, "real_at_most", "false_negative_rate")
    if low.value > high.value:
        raise thresholds.wrong("real_at_most", "must not be above fake_at_least")
    return Verdicts(fake, real, high, low)


def _indices(meaning: Fields, side: str, labels: tuple[str, ...]) -> tuple[int, ...]:
    if side in meaning.values:
        names = meaning.texts(side)
    else:
        names = tuple(label for label in labels if label.lower() == side)
    missing = [name for name in names if name not in labels]
    if missing or not names:
        raise meaning.wrong(
            side, f"must name labels of {CONFIG} that mean {side}; it has {', '.join(labels)}"
        )
    return tuple(labels.index(name) for name in names)


def _threshold(thresholds: Fields, name: str, rate_name: str) -> Threshold:
    entry = thresholds.mapping(name, {})
    value = entry.number("value", 0.5)
    rate = entry.number(rate_name, math.nan)
    if not 0 <= value <= 1:
        raise entry.wrong("value", "must be between 0 and 1")
    return Threshold(value, None if math.isnan(rate) else rate)


def _weights(root: Path, allow_pth: bool) -> Path:
    if (root / WEIGHTS).is_file():
        return root / WEIGHTS
    pickled = sorted([*root.glob("*.pth"), *root.glob("*.bin"), *root.glob("*.pt")])
    if not pickled:
        raise BundleError(f"{root}: no {WEIGHTS}; a bundle needs its weights")
    if not allow_pth:
        raise BundleError(
            f"{root}: only pickled weights ({pickled[0].name}); convert them with `python -m "
            "predictor model convert`, or set model.allow_pth"
        )
    if len(pickled) > 1:
        raise BundleError(f"{root}: several pickled weight files; keep one")
    return pickled[0]


def _verified_files(root: Path, own: Fields, weights: Path) -> dict[str, str]:
    declared = own.mapping("files", {}).values
    if own.values and weights.name not in declared:
        raise own.wrong("files", f"must hold the SHA-256 of {weights.name}")
    if own.values and own.values.get("format_version") != FORMAT_VERSION:
        raise own.wrong("format_version", f"must be {FORMAT_VERSION}, the one this version reads")
    golden = root / GOLDEN
    if own.values and golden.is_file() and GOLDEN not in declared:
        raise own.wrong("files", f"must hold the SHA-256 of {GOLDEN}")
    for name, digest in declared.items():
        file = root / name
        if Path(name).name != name or not file.is_file():
            raise own.wrong("files", f"names {name!r}, which is not a file of this bundle")
        if _sha256(file) != digest:
            raise BundleError(
                f"{name}: its SHA-256 is not the one in {REALFAKE}; it was changed or cut short "
                "on the way: fetch the bundle again"
            )
    return dict(declared)


def _identity(root: Path, weights: Path, files: Mapping[str, str]) -> str:
    known = files or {path.name: _sha256(path) for path in (root / CONFIG, weights)}
    text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(known.items()))
    if (root / REALFAKE).is_file():
        text += _sha256(root / REALFAKE)  # thresholds and temperature decide answers, too
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
