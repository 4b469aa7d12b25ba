"""CPU and memory of a tree of processes, with real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hack.load.process_tree import ProcessTree

# Each says when it has done its work, and then waits for the end of its input.
BURN = """
import time
while time.process_time() < {seconds}: pass
"""
HOLD = "held = bytearray({mib} * 1024 * 1024); held[::4096] = b'x' * len(held[::4096])"
SAY_AND_WAIT = "\nimport sys; print('done', flush=True); sys.stdin.read()"
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=sys.stdin, stdout=subprocess.PIPE)
assert child.stdout.readline() == b'done\\n'
{then}
"""


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said `done`; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def with_child(child: str, then: str = "") -> str:
    return PARENT.format(child=child + SAY_AND_WAIT, then=then) + SAY_AND_WAIT


def test_what_a_child_computes_counts() -> None:
    with started(with_child(BURN.format(seconds=0.5))) as process:
        tree = ProcessTree(process.pid)
        assert tree.cpu_s() >= 0.5
        assert len(tree.members()) == 2


def test_what_a_child_computed_counts_when_it_has_ended() -> None:
    with started(with_child(BURN.format(seconds=0.5), "child.kill(); child.wait()")) as process:
        tree = ProcessTree(process.pid)
        assert tree.members() == {process.pid}
        assert tree.cpu_s() >= 0.5


def test_a_child_whose_parent_has_ended_still_counts() -> None:
    orphan = BURN.format(seconds=0.5) + SAY_AND_WAIT
    between = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {between!r}])\n"
    # The orphan's `done` is what is waited for; the process itself then waits for its end.
    with started(code + "sys.stdin.read()") as process:
        tree = ProcessTree(process.pid)
        assert len(tree.members()) == 2
        assert tree.cpu_s() >= 0.5


def test_what_others_compute_does_not() -> None:
    with started(BURN.format(seconds=0.5) + SAY_AND_WAIT), started(SAY_AND_WAIT) as process:
        assert ProcessTree(process.pid).cpu_s() < 0.5


def test_the_memory_of_a_child_counts_and_its_peak_is_kept() -> None:
    mib = 1024 * 1024
    with started(with_child(HOLD.format(mib=64))) as process:
        tree = ProcessTree(process.pid)
        assert 64 * mib < tree.memory_bytes() < 128 * mib
        with tree.peak_memory() as peak:
            process.kill()
            process.wait()
        assert peak[0] > 64 * mib


def test_of_a_process_that_has_ended_there_is_nothing() -> None:
    with started(SAY_AND_WAIT) as process:
        tree = ProcessTree(process.pid)
    assert (tree.cpu_s(), tree.memory_bytes(), tree.members()) == (0.0, 0, set())
