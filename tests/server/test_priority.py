"""Who goes first when there are fewer cores than threads that want one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.processes import descendants
from tests.server.conftest import StartServer


def priorities(pid: int) -> dict[int, int]:
    """Nice of each thread of a process, by thread."""
    threads = map(int, os.listdir(f"/proc/{pid}/task"))
    return {thread: nice(pid, thread) for thread in threads}


def nice(pid: int, thread: int) -> int:
    stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[16])


@pytest.mark.parametrize(
    ("mode", "engine", "threads", "processes"),
    [
        ("thread", "onnx", "lanes and workers", 0),
        ("process", "torch", "lanes and workers", 2),
        ("process", "onnx", "none", 2),
    ],
)
def test_what_computes_gives_way_to_the_event_loop(
    mode: str, engine: str, threads: str, processes: int, start_server: StartServer
) -> None:
    workers = 2
    settings = {
        "REALFAKE_DECODING__MODE": mode,
        "REALFAKE_DECODING__WORKERS": str(workers),
        "REALFAKE_MODEL__ENGINE": engine,
    }
    server = start_server(settings).wait_ready()
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    lower, lowest = min(19, usual + 10), 19
    found = priorities(server.process.pid)
    assert found.pop(server.process.pid) == usual, "the event loop's own thread"
    lanes = len(os.sched_getaffinity(server.process.pid))
    expected = lanes + workers if threads == "lanes and workers" else 0
    assert list(found.values()).count(lower) == expected
    assert set(found.values()) <= {usual, lower}
    below = [pid for pid in descendants(server.process.pid) if nice(pid, pid) == lowest]
    assert len(below) == processes
