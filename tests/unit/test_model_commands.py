"""`python -m predictor model …`: what is printed where, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from predictor.bundle.files import CONFIG, REALFAKE, WEIGHTS
from predictor.cli import main
from tests.unit.bundles import ARCHITECTURE, hub_bundle

ROOT = Path(__file__).parents[2]
DEBUG = ROOT / "checkpoints" / "debug"

Output = pytest.CaptureFixture[str]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = timm.create_model(ARCHITECTURE, num_classes=2)
    torch.save(module.state_dict(), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def command(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "predictor", "model", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def convert_flags(*more: str) -> list[str]:
    return ["--architecture", ARCHITECTURE, "--labels", "fake,real", "--fake", "fake", *more]


@pytest.mark.slow
def test_a_checkpoint_is_converted_and_verified(
    checkpoint: Path, tmp_path: Path, capsys: Output
) -> None:
    """As a person runs the commands, in processes of their own."""
    bundle = tmp_path / "bundle"
    made = command("convert", checkpoint, bundle, *convert_flags("--input-size", "64"))
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith(f"wrote {bundle} (")
    assert main(["model", "verify", str(bundle)]) == 0
    proven = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in proven] == ["ok: "] * 3
    with (bundle / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    refused = command("verify", bundle)
    assert (refused.returncode, refused.stdout) == (3, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("realfake: model.safetensors: its SHA-256 is not the one")


def test_inspect_prints_json(capsys: Output) -> None:
    assert main(["model", "inspect", str(DEBUG)]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["label_names"] == ["fake", "real"]
    assert described["files"] == json.loads((DEBUG / REALFAKE).read_text())["files"]


@pytest.mark.parametrize("action", ["inspect", "verify"])
def test_a_refused_bundle_is_exit_code_3(action: str, tmp_path: Path, capsys: Output) -> None:
    assert main(["model", action, str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"realfake: model.path: no {CONFIG} in {tmp_path}")


@pytest.mark.parametrize("action", ["inspect", "verify"])
def test_a_pickle_needs_the_flag(action: str, tmp_path: Path, capsys: Output) -> None:
    hub_bundle(tmp_path, pickled=True)
    assert main(["model", action, str(tmp_path)]) == 3
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert main(["model", action, str(tmp_path), "--allow-pth"]) == 0


def test_a_refused_conversion_is_exit_code_3(
    checkpoint: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "m2.pth").write_bytes(b"not a checkpoint")
    flags = convert_flags()
    assert main(["model", "convert", str(tmp_path / "m2.pth"), str(tmp_path / "b"), *flags]) == 3
    assert "m2.pth: cannot be read with weights_only=True" in capsys.readouterr().err
    assert main(["model", "convert", str(checkpoint), str(tmp_path), *flags]) == 3
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["inspect"],
        ["verify", "a", "b"],
        ["verify", "a", "--allow"],
        ["convert", "a.pth", "b"],
        ["convert", "a.pth", "b", "--architecture", "x", "--labels", "a,b", "--fake"],
        ["convert", "a.pth", "b", *convert_flags("--input-size", "large")],
        ["inspect", "a", "--model.path", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main(["model", *argv])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage:" in captured.err
