"""Each peer in an environment of its own, from its pinned and hashed requirements."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from hack.bench.contestants import ENVIRONMENTS, PEERS, Contestant
from hack.load.server import ROOT


class NotInstalled(Exception):
    """A peer's environment could not be made; says why."""


def install(peer: Contestant) -> None:
    """Make a peer's environment, where it is missing or made from another lock.

    Raises:
        NotInstalled: its packages cannot be had here.
    """
    install_from(PEERS / peer.name / "requirements.txt", peer.name, peer.title)


def install_from(lock: Path, name: str, title: str) -> Path:
    """The same for any lock: the directory of what it installs as programs.

    Raises:
        NotInstalled: its packages cannot be had here.
    """
    directory = ENVIRONMENTS / name
    made_from = directory / "made-from"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not made_from.is_file() or made_from.read_text() != digest:
        print(f"installing {title} (minutes on a first run)", flush=True)
        uv = _run(["hack/find_uv.sh"]).strip()
        python = _run(["hack/find_python.sh"]).strip()
        _run([uv, "venv", "--quiet", "--no-config", "--clear", "--python", python, str(directory)])
        into = ["--python", str(directory / "bin" / "python"), "--no-config", "--require-hashes"]
        _run([uv, "pip", "sync", "--quiet", *into, str(lock)])
        made_from.write_text(digest)
    return directory / "bin"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(done.stderr.strip()[-1000:])
    return done.stdout
