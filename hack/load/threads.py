"""Which thread of a process is how long on a core, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_ns(pid: int) -> dict[int, int]:
    """Nanoseconds on a core so far, by thread; the first, in which a server of ours has its event
    loop, has the process's own number."""
    return {
        int(thread): int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        for thread in os.listdir(f"/proc/{pid}/task")
    }
