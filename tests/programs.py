"""Programs of others that tests run on this machine's loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def program(name: str) -> str | None:
    """The path of a program on PATH, or of one that `make kube-api` built."""
    return shutil.which(name, path=f"{os.environ['PATH']}:{ROOT / '.run' / 'bin'}")


class Processes:
    """Child processes that end together; each writes its own log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *args: str) -> None:
        path = program(name)
        assert path is not None, name
        with (self.directory / f"{name}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen([path, *args], stdout=log, stderr=subprocess.STDOUT)
            )

    def stop(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()
