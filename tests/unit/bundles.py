"""Model bundles for tests, as timm writes them, and what can go wrong with one."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from predictor.bundle.files import CONFIG, REALFAKE, WEIGHTS, write_realfake_json
from predictor.bundle.manifest import read_manifest
from predictor.errors import BundleError

ARCHITECTURE = "test_efficientnet"
CONFIG_FIELDS: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "num_classes": 2,
    "label_names": ["fake", "real"],
    "pretrained_cfg": {
        "input_size": [3, 32, 48],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
    "model_args": {"num_classes": 2, "in_chans": 3},
}
OWN_FIELDS: dict[str, Any] = {
    "version": "7",
    "temperature": 1.5,
    "labels": {"fake": ["fake"], "real": ["real"]},
    "thresholds": {
        "fake_at_least": {"value": 0.8, "false_positive_rate": 0.01},
        "real_at_most": {"value": 0.2, "false_negative_rate": 0.02},
    },
    "metrics": {"auc": 0.9},
    "reference": {"bounds": [0.5, 1], "shares": [0.7, 1], "pictures": 2000},
}


def described(directory: Path) -> Path:
    """A bundle whose description is whole; its weights are only bytes with a digest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(CONFIG_FIELDS))
    (directory / WEIGHTS).write_bytes(b"weights")
    write_realfake_json(directory, OWN_FIELDS)
    return directory


def with_field(document: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The document with the field at `a.b.c` replaced."""
    name, _, rest = place.partition(".")
    inside = document.get(name)
    if rest:
        value = with_field(inside if isinstance(inside, dict) else {}, rest, value)
    return {**document, name: value}


def set_config(bundle: Path, place: str, value: Any) -> None:
    """Change `config.json`, and the digest of it where there is one."""
    file = bundle / CONFIG
    file.write_text(json.dumps(with_field(json.loads(file.read_text()), place, value)))
    own = bundle / REALFAKE
    if own.is_file():
        write_realfake_json(bundle, {**json.loads(own.read_text()), "files": {}})


def set_own(bundle: Path, place: str, value: Any) -> None:
    file = bundle / REALFAKE
    file.write_text(json.dumps(with_field(json.loads(file.read_text()), place, value)))


def hub_bundle(
    directory: Path,
    architecture: str = ARCHITECTURE,
    *,
    options: Mapping[str, Any] | None = None,
    labels: Any = ("fake", "real"),
    pickled: bool = False,
) -> Any:
    """Let timm itself write a network with random weights; returns the network."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    module = timm.create_model(architecture, num_classes=len(labels), **(options or {})).eval()
    save_for_hf(
        module,
        str(directory),
        model_config={"label_names": labels},
        safe_serialization=not pickled,
    )
    return module


@contextmanager
def as_nobody(directory: Path, mode: int = 0o755) -> Iterator[None]:
    """Run without root's right to read everything, from inside `directory`."""
    before = Path.cwd()
    root = os.geteuid() == 0
    directory.chmod(mode)
    os.chdir(directory)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chdir(before)
        directory.chmod(0o755)


@contextmanager
def files_no_larger_than(limit: int) -> Iterator[None]:
    """Writes beyond `limit` bytes of a file fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refusal(path: Path, **options: bool) -> str:
    """What is said of a bundle that is not to be served."""
    with pytest.raises(BundleError) as refused:
        read_manifest(path, **options)
    return refused.value.message
