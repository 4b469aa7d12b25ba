"""What a container build may see of this folder: what the Dockerfile copies, nothing private."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[2]
MAX_CONTEXT_BYTES = 4 * 1024 * 1024
PRIVATE = (
    ".env",
    ".git/config",
    ".run/keys/local",
    ".venv/bin/python",
    "checkpoints/detector/model.safetensors",
    "datasets/faces/1.jpg",
    "hack/run.py",
    "kubeconfig",
    "predictor/__pycache__/cli.cpython-311.pyc",
    "predictor/serving/__pycache__/edge.cpython-311.pyc",
    "secrets.yaml",
    "tests/unit/test_cli.py",
)


def context_of(directory: Path) -> set[str]:
    """The files that docker would send to its builder."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    paths = exclude_paths(str(directory), patterns)
    return {path for path in paths if (directory / path).is_file()}


def test_the_context_of_this_checkout_is_small_and_committed() -> None:
    """An environment is gigabytes that every build would copy; a stray file may be a key."""
    context = context_of(ROOT)
    size = sum((ROOT / path).stat().st_size for path in context)
    assert size < MAX_CONTEXT_BYTES, f"{size} bytes"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # docker sends its own two files always; the Dockerfile does not copy them.
    assert context - {"Dockerfile", ".dockerignore"} <= set(listed.stdout.splitlines())


@pytest.mark.parametrize("path", PRIVATE)
def test_a_private_file_stays_out(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("private")
    assert path not in context_of(tmp_path)


def test_everything_the_dockerfile_copies_is_in_the_context() -> None:
    context = context_of(ROOT)
    copied = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()[:-1] if "[" not in source]
    assert len(sources) > 5
    for source in sources:
        assert any(path == source or path.startswith(f"{source}/") for path in context), source
