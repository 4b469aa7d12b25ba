"""A bundle's description: labels, preprocessing, calibration, thresholds, digests.

A bundle is a directory in timm's hub layout (`config.json`, `model.safetensors`), optionally
with `realfake.json`. Nothing here imports torch: a manifest is read in milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.fields import Fields
from predictor.bundle.files import (
    CONFIG,
    GOLDEN,
    GRAPH,
    REALFAKE,
    find_bundle,
    find_weights,
    identity,
    read_own,
    verified_files,
)
from predictor.bundle.graph import GraphFacts, read_graph_facts
from predictor.bundle.reference import Reference, read_reference
from predictor.bundle.verdicts import Threshold, Verdicts
from predictor.errors import BundleError

INTERPOLATIONS: Final = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
CROP_MODES: Final = ("center", "squash", "border")

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
DEFAULT_CROP_PCT: Final = 0.875
"""These and 224 px bicubic are what `timm.data.resolve_data_config` assumes when unsaid."""

LARGEST_SIDE: Final = 4096
TEMPERATURES: Final = (0.01, 100.0)
VERSION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


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
        reference: how its answers were distributed where it was tried; None where that is unsaid.
        graph: about its `model.onnx`; None where it has none that was exported from it.
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
    reference: Reference | None = None
    graph: GraphFacts | None = None


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Inputs whose answers are known: uint8 (n, H, W, 3) and float32 (n, K), calibrated."""

    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def read_manifest(path: Path, *, allow_pth: bool = False, graph: bool = True) -> Manifest:
    """Read and check a bundle's description, its files' digests included.

    Args:
        allow_pth: accept a lone pickled `.pth` file as the weights.
        graph: False to look past its `model.onnx`, which may be stale and is about to be made.

    Raises:
        BundleError: naming the file, the field and the fix.
    """
    try:
        return _read(find_bundle(path), allow_pth, graph)
    except OSError as error:
        name = Path(error.filename or path).name
        raise BundleError(f"model.path: {name} cannot be read: {error.strerror}") from None


def _read(root: Path, allow_pth: bool, graph: bool) -> Manifest:
    config = Fields.read(root / CONFIG)
    cfg = config.mapping("pretrained_cfg", {})
    labels = _labels(config, cfg)
    weights = find_weights(root, allow_pth)
    declared = read_own(root)
    if declared is not None and not graph:
        declared = _without_graph(declared)
    files = verified_files(root, declared, weights)
    own = declared or Fields({}, REALFAKE)
    temperature = own.number("temperature", 1.0)
    if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise own.wrong("temperature", "must be between {:g} and {:g}".format(*TEMPERATURES))
    version = own.text("version", "1")
    if not VERSION.fullmatch(version):
        raise own.wrong("version", f"is part of addresses: it must match {VERSION.pattern}")
    return Manifest(
        path=root,
        weights=weights,
        architecture=config.text("architecture"),
        num_classes=len(labels),
        label_names=labels,
        preprocessing=_preprocessing(cfg),
        temperature=temperature,
        verdicts=_verdicts(own, labels),
        version=version,
        digest=identity(root, weights, files),
        files=files,
        model_args=dict(config.mapping("model_args", {}).values),
        metrics=dict(own.mapping("metrics", {}).values),
        reference=read_reference(own),
        graph=read_graph_facts(own, {name: files.get(name) for name in (CONFIG, weights.name)}),
    )


def _without_graph(own: Fields) -> Fields:
    files = {
        name: digest for name, digest in own.mapping("files", {}).values.items() if name != GRAPH
    }
    others = {name: value for name, value in own.values.items() if name != "onnx"}
    return Fields({**others, "files": files}, own.place)


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
    except (SafetensorError, OSError, TypeError, AttributeError):  # the last two: no numpy dtype
        raise BundleError(f"{GOLDEN}: cannot be read; make the bundle again") from None
    pixels, probabilities = tensors.get("pixels"), tensors.get("probabilities")
    height, width = manifest.preprocessing.input_size
    if (
        pixels is None
        or probabilities is None
        or pixels.dtype != np.uint8
        or pixels.shape[1:] != (height, width, 3)
        or len(pixels) == 0
        or probabilities.shape != (len(pixels), manifest.num_classes)
        or not np.issubdtype(probabilities.dtype, np.floating)
        or not np.isfinite(probabilities).all()
    ):
        raise BundleError(
            f"{GOLDEN}: must hold pixels uint8 (n, {height}, {width}, 3) and probabilities "
            f"float32 (n, {manifest.num_classes}); make the bundle again"
        )
    return GoldenVectors(pixels, probabilities.astype(np.float32))


def _labels(config: Fields, cfg: Fields) -> tuple[str, ...]:
    source = cfg if "label_names" in cfg.values and "label_names" not in config.values else config
    names = source.texts("label_names")
    if len(names) < 2:
        raise source.wrong("label_names", "must name at least two classes")
    if len(set(names)) != len(names):
        raise source.wrong("label_names", "names a class twice")
    place = config if config.values.get("num_classes") is not None else cfg
    if place.number("num_classes", len(names)) != len(names):
        raise place.wrong("num_classes", f"must be {len(names)}: there are as many label_names")
    return names


def _preprocessing(cfg: Fields) -> Preprocessing:
    size = cfg.numbers("input_size", (3, 224, 224))
    if (
        len(size) != 3
        or size[0] != 3
        or any(side != int(side) or not 1 <= side <= LARGEST_SIDE for side in size)
    ):
        raise cfg.wrong("input_size", f"must be [3, height, width], at most {LARGEST_SIDE}")
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
            side, f"must name labels of {CONFIG} that mean {side}; it has {_some(labels)}"
        )
    return tuple(labels.index(name) for name in names)


def _threshold(thresholds: Fields, name: str, rate_name: str) -> Threshold:
    entry = thresholds.mapping(name, {})
    value = entry.number("value", 0.5)
    rate = entry.number(rate_name, math.nan)
    for field_name, share in (("value", value), (rate_name, rate)):
        if share < 0 or share > 1:
            raise entry.wrong(field_name, "must be between 0 and 1")
    return Threshold(value, None if math.isnan(rate) else rate)


def _some(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:5])
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"
