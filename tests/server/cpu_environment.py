"""An environment of what `requirements/cpu.txt` names and nothing else: the image for CPUs."""

from __future__ import annotations

import re
import subprocess
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.server.process import ROOT


def pins() -> dict[str, str]:
    """Version by name of what the lock installs on this machine."""
    lines = re.findall(r"^([a-z0-9].*?) *\\$", (ROOT / "requirements/cpu.txt").read_text(), re.M)
    requirements = [Requirement(line) for line in lines]
    return {
        one.name: str(one.specifier).removeprefix("==")
        for one in requirements
        if one.marker is None or one.marker.evaluate()
    }


def make(directory: Path) -> Path:
    """Make it of links to the files of this environment; returns its Python.

    No import is intercepted: what is not in the lock is not there, as in the image.
    """
    venv.create(directory, symlinks=True)
    packages = next(directory.glob("lib/python*/site-packages"))
    for name, version in pins().items():
        installed = distribution(name)
        assert installed.version == version, f"{name}: run make setup"
        for file in installed.files or ():
            # A script above site-packages would be run by the Python of this environment.
            if file.parts[0] == ".." or "__pycache__" in file.parts:
                continue
            link = packages / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(installed.locate_file(file))).resolve())
    return directory / "bin" / "python"


def run(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in it, with the predictor on its path and no settings of this machine."""
    return subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": str(python.parent)},
    )
