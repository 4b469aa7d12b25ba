"""The process that forks decoders, and what it shares with the server."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Any

import pytest

from predictor.inference.decode_nursery import Nursery, shared_byte
from tests.unit.decoders import terms

ONE_FORK_FAILS = """
import errno, os
fork, forks = os.fork, []
def failing():
    forks.append(1)
    if len(forks) == 2:
        raise BlockingIOError(errno.EAGAIN, "as at a limit of processes")
    return fork()
os.fork = failing
from predictor.inference.decode_worker import main
main()
"""


def test_a_decoder_that_cannot_be_forked_costs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return started([command[0], "-c", ONE_FORK_FAILS], **options)

    monkeypatch.setattr("predictor.inference.decode_nursery.subprocess.Popen", start)
    nursery = Nursery(terms())
    try:
        healthy = nursery.start_decoder()
        with pytest.raises(OSError):  # noqa: PT011  # the connection ended, in one way or another
            nursery.start_decoder()
        healthy.ping()
        for decoder in (healthy, nursery.start_decoder()):
            decoder.close()
    finally:
        nursery.close()
        nursery.wait()


def test_what_is_shared_with_a_decoder_cannot_be_taken_away() -> None:
    """The server would end by SIGBUS when it looks at it."""
    with contextlib.ExitStack() as until:
        shared, progress = shared_byte(until)
        with pytest.raises(PermissionError):
            os.ftruncate(shared, 0)
        progress[0] = 7
        assert progress[0] == 7
