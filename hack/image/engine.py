"""The container engine of this machine, and how a restricted pod would be run by it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

CONFINED: Final = (
    "--read-only",
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:rw,noexec,nosuid,mode=1777"),  # noqa: S108  # the container's own
)
"""As Pod Security's `restricted` profile asks."""


def engine() -> str | None:
    """podman or docker, whichever answers here, or None."""
    for name in ("podman", "docker"):
        if shutil.which(name):
            asked = subprocess.run([name, "info"], capture_output=True, check=False)
            if asked.returncode == 0:
                return name
    return None
