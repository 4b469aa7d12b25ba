"""What the kernel says about the processes a test started."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Ids of all living processes below `pid`, without itself."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found: set[int] = set()
    more = {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that still run."""
    living = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            living.add(pid)
    return living


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
