"""Start a server, know when it answers, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from hack.load.process_tree import ProcessTree
from hack.load.server import ROOT

_GRACE_S: Final = 20.0
_POLL_S: Final = 0.05
_TAIL_LINES: Final = 15


class ServerFailed(Exception):
    """A server ended, did not answer in time, or answered wrongly; says why."""


class Running:
    """A server's process, in a session of its own, with its output in a file.

    Attributes:
        began: when it was started, by `time.monotonic`.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, began: float) -> None:
        self.process = process
        self.began = began
        self.tree = ProcessTree(process.pid)
        self._log = log

    def check(self) -> None:
        """Raises: ServerFailed: it has ended."""
        if self.process.poll() is not None:
            raise self.failed(f"it ended with {self.process.returncode}")

    def failed(self, why: str) -> ServerFailed:
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return ServerFailed("\n    ".join([why, *lines]))


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, cpus: str
) -> Iterator[Running]:
    """Run a server until the end of the block.

    Args:
        cpus: those it may use, as `taskset` has them.

    Raises:
        ServerFailed: the program is not there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", cpus, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
    server = Running(process, log, began)
    try:
        yield server
    finally:
        _end(server)


def _end(server: Running) -> None:
    """Ask first; then end whatever is left of it, also what has lost its parent."""
    left = server.tree.members()
    with contextlib.suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(_GRACE_S)
    end = time.monotonic() + _GRACE_S / 4
    while (left := {pid for pid in left if _lives(pid)}) and time.monotonic() < end:
        time.sleep(_POLL_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
