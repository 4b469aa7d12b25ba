"""The programs that tests/cluster runs in pods, against a server here: none is first run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.cluster import inside
from tests.server.process import BUNDLE, ServerProcess


def run(server: ServerProcess, program: str, *args: str) -> list[Any]:
    """The lines it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env=os.environ
        | {"API_KEY": server.api_key, "PICTURE": str(BUNDLE / "samples" / "photo-1.jpg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_rest(server: ServerProcess) -> None:
    (line,) = run(server, inside.REST, server.url)
    assert json.loads(line) == {"status": 200, "verdict": "real"}


def test_grpc(server: ServerProcess) -> None:
    line = run(server, inside.GRPC, server.grpc)[-1]
    assert json.loads(line) == {"outputs": ["fake_prob", "probabilities", "verdict"]}


def test_load_counts_every_status_and_failed_connections(server: ServerProcess) -> None:
    """A load that swallowed errors would prove any upgrade harmless."""
    started, line = run(server, inside.LOAD, server.url, "0.5")
    assert started == "started"
    assert set(json.loads(line)) == {"200"}
    refused = run(server, inside.LOAD, "http://127.0.0.1:1", "0.1")[-1]
    assert set(json.loads(refused)) == {"URLError"}
    unknown = run(server, inside.LOAD, server.url, "0.1", json.dumps({"X-API-Key": "rf_other"}))[-1]
    assert set(json.loads(unknown)) == {"401"}
