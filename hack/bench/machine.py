"""On what a benchmark ran."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hack.bench.contestants import Contestant

COMMON: Final = ("torch", "timm", "onnxruntime", "pillow", "numpy")
_VERSIONS: Final = (
    "import json, sys; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)


def describe() -> dict[str, str]:
    memory = _field(Path("/proc/meminfo"), "MemTotal").split()[0]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "CPU": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
    }


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """The versions of packages in an environment."""
    done = subprocess.run(
        [str(python), "-c", _VERSIONS, *names], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def versions_of(contestant: Contestant) -> dict[str, str]:
    return versions(contestant.python, (*contestant.packages, *COMMON))


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
