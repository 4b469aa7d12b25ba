"""What a server costs, all its processes together, read from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    ticks: int


class ProcessTree:
    """A process, all below it, and all of its session: also those whose parent has ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def members(self) -> set[int]:
        """Process ids, as of now."""
        return self._members(_processes())

    def cpu_s(self) -> float:
        """User and system seconds, with those of children that ended and were waited for."""
        processes = _processes()
        return sum(processes[pid].ticks for pid in self._members(processes)) / _TICKS

    def memory_bytes(self) -> int:
        """Proportional set size: a page that several share counts once."""
        return sum(_pss(pid) for pid in self.members())

    def peak_memory(self) -> AbstractContextManager[list[int]]:
        """Most bytes in use at once, looked at each second, in the one element of the list."""
        return peak_of(self.memory_bytes, _SAMPLE_S)

    def _members(self, processes: dict[int, _Process]) -> set[int]:
        members = {pid for pid, process in processes.items() if process.session == self._pid}
        members |= {self._pid} & processes.keys()
        grown = True
        while grown:
            more = {pid for pid, process in processes.items() if process.parent in members}
            grown = not more <= members
            members |= more
        return members


@contextmanager
def peak_of(read: Callable[[], int], every_s: float) -> Iterator[list[int]]:
    """The most that `read` gives until the end of the block, in the one element of the list."""
    peak = [read()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            peak[0] = max(peak[0], read())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], read())


def _processes() -> dict[int, _Process]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold blanks and brackets itself.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks = sum(map(int, fields[11:15]))
        found[int(path.parent.name)] = _Process(int(fields[1]), int(fields[3]), ticks)
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended, or ends
        return 0
    kibibytes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return int(kibibytes[0]) * 1024 if kibibytes else 0
