"""The files of a bundle: where they are, and whether they are the ones it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from predictor.bundle.fields import Fields
from predictor.errors import BundleError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
REALFAKE: Final = "realfake.json"
GOLDEN: Final = "golden.safetensors"
GRAPH: Final = "model.onnx"
FORMAT_VERSION: Final = 1


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


def read_own(root: Path) -> Fields | None:
    """Read `realfake.json`, or None where the bundle has none.

    Raises:
        BundleError: it is there and cannot be read, or is of a format not known here.
    """
    file = root / REALFAKE
    # A link to nothing is not an absence: thresholds and digests were meant to be there.
    if not file.is_file() and not file.is_symlink() and not file.exists():
        return None
    own = Fields.read(file)
    if own.values.get("format_version") != FORMAT_VERSION:
        raise own.wrong("format_version", f"must be {FORMAT_VERSION}, the one this version reads")
    return own


def find_weights(root: Path, allow_pth: bool) -> Path:
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


def verified_files(root: Path, own: Fields | None, weights: Path) -> dict[str, str]:
    """Compare every file named in `realfake.json` with its SHA-256.

    Returns:
        SHA-256 in hex by file name; empty without `realfake.json`.

    Raises:
        BundleError: a file differs, is missing, or decides answers and is not named.
    """
    if own is None:
        return {}
    declared = own.mapping("files", {}).values
    deciding = [CONFIG, weights.name, *([GOLDEN] if (root / GOLDEN).is_file() else [])]
    if "onnx" in own.values:
        deciding.append(GRAPH)
    for name in deciding:
        if name not in declared:
            raise own.wrong("files", f"must hold the SHA-256 of {name}")
    there = {entry.name for entry in root.iterdir() if entry.is_file()}
    for name, digest in declared.items():
        if name not in there:
            raise own.wrong("files", f"names {name!r}, which is not a file of this bundle")
        if sha256(root / name) != digest:
            raise BundleError(
                f"{name}: its SHA-256 is not the one in {REALFAKE}; it was changed or cut short "
                "on the way: fetch the bundle again"
            )
    return dict(declared)


def identity(root: Path, weights: Path, files: Mapping[str, str]) -> str:
    known = files or {path.name: sha256(path) for path in (root / CONFIG, weights)}
    text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(known.items()))
    if files:
        text += sha256(root / REALFAKE)  # thresholds and temperature decide answers, too
    return hashlib.sha256(text.encode()).hexdigest()


def write_realfake_json(directory: Path, fields: Mapping[str, Any]) -> None:
    """Write `realfake.json` with the digests of the bundle's files as they are now."""
    names = [name for name in (CONFIG, WEIGHTS, GOLDEN, GRAPH) if (directory / name).is_file()]
    document = {
        "format_version": FORMAT_VERSION,
        **fields,
        "files": {name: sha256(directory / name) for name in names},
    }
    (directory / REALFAKE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
