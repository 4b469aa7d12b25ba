"""The files of a bundle: where they may lie, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from predictor.bundle.files import CONFIG, GOLDEN, REALFAKE, WEIGHTS, sha256
from predictor.bundle.manifest import read_manifest
from tests.unit.bundles import as_nobody, described, refusal, set_own


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_changed_file_is_refused(name: str, bundle: Path) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    assert refusal(bundle).startswith(f"{name}: its SHA-256 is not the one in realfake.json")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_realfake_json_answers_for_every_file_that_decides(name: str, bundle: Path) -> None:
    """Or labels could be exchanged in config.json and nobody would know."""
    files = json.loads((bundle / REALFAKE).read_text())["files"]
    del files[name]
    set_own(bundle, "files", files)
    assert refusal(bundle) == f"realfake.json: files: must hold the SHA-256 of {name}"


def test_golden_vectors_beside_the_manifest_are_refused(bundle: Path) -> None:
    (bundle / GOLDEN).write_bytes(b"from elsewhere")
    assert GOLDEN in refusal(bundle)


@pytest.mark.parametrize(
    "name", ["gone.bin", "../config.json", "..", "", "/etc/passwd", "a" * 300, "\0", "\ud800"]
)
def test_realfake_json_can_name_files_of_the_bundle_only(name: str, bundle: Path) -> None:
    files = json.loads((bundle / REALFAKE).read_text())["files"]
    set_own(bundle, "files", {**files, name: "0" * 64})
    assert "which is not a file of this bundle" in refusal(bundle)


def test_what_does_not_decide_may_lie_beside(bundle: Path) -> None:
    before = read_manifest(bundle).digest
    (bundle / "README.md").write_text("a model card")
    (bundle / "samples").mkdir()
    (bundle / "pytorch_model.bin").write_bytes(b"the same, pickled")
    assert read_manifest(bundle).digest == before


@pytest.mark.parametrize("plain", [True, False])
def test_the_digest_is_the_models_identity(plain: bool, bundle: Path, tmp_path: Path) -> None:
    if plain:
        (bundle / REALFAKE).unlink()
    first = read_manifest(bundle).digest
    assert read_manifest(bundle.rename(tmp_path / "moved")).digest == first
    moved = tmp_path / "moved"
    if plain:
        (moved / WEIGHTS).write_bytes(b"others")
    else:
        set_own(moved, "temperature", 2.0)
    assert read_manifest(moved).digest != first


def below(bundle: Path) -> Path:
    return bundle.parent


def linked(bundle: Path) -> Path:
    """A modelcar's /mnt/models is a link into another container."""
    (bundle.parent / "models").symlink_to(bundle)
    return bundle.parent / "models"


def cached(bundle: Path) -> Path:
    """A hub cache keeps files as blobs, and a snapshot of links to them."""
    snapshot = bundle.parent / "snapshot"
    snapshot.mkdir()
    for file in bundle.iterdir():
        blob = file.rename(file.with_name(sha256(file)))
        (snapshot / file.name).symlink_to(Path("..", "bundle", blob.name))
    return snapshot


def projected(bundle: Path) -> Path:
    """A ConfigMap's files are links through a link to a directory with the time in its name."""
    root = bundle.parent / "mount"
    root.mkdir()
    bundle.rename(root / "..2026_01_01")
    (root / "..data").symlink_to("..2026_01_01")
    for name in (CONFIG, WEIGHTS, REALFAKE):
        (root / name).symlink_to(Path("..data", name))
    return root


@pytest.mark.parametrize("mount", [below, linked, cached, projected])
def test_a_bundle_is_found_as_it_is_mounted(mount: Callable[[Path], Path], bundle: Path) -> None:
    assert read_manifest(mount(bundle)).version == "7"


def test_a_place_without_one_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    assert "is not a directory" in refusal(tmp_path / "nowhere")
    assert "is not a directory" in refusal(bundle / CONFIG)
    described(tmp_path / "second")
    assert "several bundles" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "says"),
    [(CONFIG, "no config.json"), (WEIGHTS, "no model.safetensors"), (REALFAKE, "realfake.json")],
)
def test_a_link_to_nothing_is_refused(name: str, says: str, bundle: Path) -> None:
    """A fetch that was cut off must not turn a calibrated bundle into an uncalibrated one."""
    (bundle / name).unlink()
    (bundle / name).symlink_to("gone")
    assert says in refusal(bundle)


@pytest.mark.parametrize(
    ("name", "says"), [*((name, name) for name in (CONFIG, WEIGHTS, REALFAKE)), (".", CONFIG)]
)
def test_what_cannot_be_read_is_named(name: str, says: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / name).chmod(0)
    with as_nobody(tmp_path):
        message = refusal(Path("bundle"))
    (bundle / name).chmod(0o755)
    assert says in message
    assert "Permission denied" in message


@pytest.mark.parametrize(
    ("names", "allow", "says"),
    [
        (["model.pth"], False, "only pickled weights (model.pth)"),
        (["pytorch_model.bin"], False, "set model.allow_pth"),
        (["a.pth", "b.pt"], True, "several pickled weight files"),
        ([], True, "no model.safetensors"),
        (["weights.safetensors"], True, "no model.safetensors"),
    ],
)
def test_pickled_weights_only_by_choice(
    names: list[str], allow: bool, says: str, bundle: Path
) -> None:
    (bundle / WEIGHTS).unlink()
    (bundle / REALFAKE).unlink()
    for name in names:
        (bundle / name).write_bytes(b"")
    assert says in refusal(bundle, allow_pth=allow)
