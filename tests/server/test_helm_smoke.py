"""The script that `helm test` runs in a pod, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.rendering import render
from tests.server.process import API_KEY, ROOT, ServerProcess
from tests.server.scrape import url

FILES = ROOT / "charts" / "realfake" / "files"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Mounted as the pod has it: the script and the picture alone in a directory."""
    for name in ("smoke.py", "photo.jpg"):
        shutil.copy(FILES / name, tmp_path)
    (tmp_path / "key").write_text(API_KEY + "\n")
    (tmp_path / "wrong").write_text("rf_of-somebody-else-0123456789abcdef")
    return tmp_path / "smoke.py"


def smoke(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, "--model=realfake", *arguments],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_passes_over_http_and_grpc(script: Path, server: ServerProcess) -> None:
    done = smoke(script, f"--http={server.url}", f"--grpc={server.grpc}", "--key-file=key")
    assert done.stdout == "HTTP: ok\ngRPC: ok\n", done.stderr
    assert done.returncode == 0


def test_passes_when_inference_without_a_key_is_refused(
    script: Path, server: ServerProcess
) -> None:
    done = smoke(script, f"--http={server.url}", f"--grpc={server.grpc}", "--expect-refusal")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--key-file=wrong"], "401|UNAUTHENTICATED"),
        (["--key-file=key", "--model=another"], "404|NOT_FOUND"),
        (["--key-file=key", "--expect-refusal"], "not 401|was answered"),
    ],
)
def test_fails_and_says_why(
    script: Path, server: ServerProcess, protocol: str, arguments: list[str], reason: str
) -> None:
    target = {"http": server.url, "grpc": server.grpc}[protocol]
    done = smoke(script, f"--{protocol}={target}", *arguments)
    assert done.returncode == 1
    over_http, over_grpc = reason.split("|")
    assert (over_http if protocol == "http" else over_grpc) in done.stderr
    assert API_KEY not in done.stderr


def test_fails_where_nobody_listens(script: Path) -> None:
    done = smoke(script, "--http=http://127.0.0.1:1", "--expect-refusal")
    assert done.returncode == 1
    assert "http://127.0.0.1:1/v2/health/ready" in done.stderr


def test_fails_where_there_are_no_metrics(script: Path, server: ServerProcess) -> None:
    done = smoke(
        script, f"--http={server.url}", "--key-file=key", f"--metrics={server.url}/metrics"
    )
    assert done.returncode == 1
    assert "/metrics answered" in done.stderr


def test_finds_the_metrics(script: Path, server: ServerProcess) -> None:
    done = smoke(script, f"--http={server.url}", "--key-file=key", f"--metrics={url(server)}")
    assert done.returncode == 0, done.stderr
    assert "metrics: ok" in done.stdout


def test_the_curl_in_the_notes_works(script: Path, server: ServerProcess) -> None:
    """What an install prints is pasted as it is."""
    (command,) = re.findall(r"curl .*?photo\.jpg", render().notes, re.DOTALL)
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=script.parent,
        env={"PATH": os.environ["PATH"], "URL": server.url, "API_KEY": API_KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"fake_prob"' in done.stdout
