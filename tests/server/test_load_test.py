"""`make load-test` against real servers: what it measures, what it requires, what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hack.ports import free_port
from tests.certificates import Authority
from tests.mounted_secret import MountedSecret
from tests.server.conftest import StartServer
from tests.server.process import ROOT, ServerProcess
from tests.server.test_tls import files, settings, wait_ready

LIMIT_S = 120
SHORT = ("--warm-up", "0.2", "--window", "0.5", "--max-windows", "2", "--callers", "4")
WIDE = "p99<60s,max<60s,errors<0.1%,throughput>0.1"


def load_test(
    server: ServerProcess | None, *arguments: str, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it as a user does, with the key in the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "API_KEY"}
    if server is not None or key is not None:
        environment["API_KEY"] = key or (server.api_key if server else "")
    return subprocess.run(
        [sys.executable, "-m", "hack.load_test", *SHORT, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def figures(path: Path) -> list[dict[str, Any]]:
    """In the order they were measured."""
    return list(json.loads(path.read_text())["targets"].values())


def test_both_protocols_are_measured_and_bounds_that_hold_end_well(
    server: ServerProcess, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    done = load_test(
        server, "--url", server.url, "--grpc", server.grpc, "--require", WIDE, "--json", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("window 1 of at most 2") == 2, "no progress"
    assert "p99.9" in done.stdout
    rest, grpc = figures(out)
    assert set(rest["codes"]) == {"200"}
    assert set(grpc["codes"]) == {"OK"}
    for one in (rest, grpc):
        assert one["requests"] > 0
        assert one["throughput"] == pytest.approx(one["requests"] / one["taken_s"])
        seconds = list(one["seconds"].values())
        assert seconds == sorted(seconds)


def test_a_run_that_ends_before_it_is_stable_says_so(server: ServerProcess) -> None:
    done = load_test(server, "--url", server.url)
    assert "never became stable in 2 windows" in done.stdout


def test_a_broken_bound_ends_with_1_and_names_it(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = load_test(server, "--url", server.url, "--require", "p50<0.001ms", "--json", str(out))
    assert done.returncode == 1
    assert "p50<0.001ms is broken: p50 is" in done.stderr
    assert len(json.loads(out.read_text())["broken"]) == 1


def test_an_open_loop_keeps_to_its_rate(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = load_test(server, "--url", server.url, "--rate", "20", "--json", str(out))
    assert done.returncode == 0, done.stderr
    (found,) = figures(out)
    assert found["requests"] / found["taken_s"] == pytest.approx(20, abs=2)


def test_refusals_are_counted_with_what_they_said(
    start_server: StartServer, tmp_path: Path
) -> None:
    slow = {"STUB_FORWARD_S": "0.3"}
    one_at_a_time = {"REALFAKE_BATCHING__MAX_BATCH_SIZE": "1"}
    server = start_server(one_at_a_time, stub=slow).wait_ready()
    out = tmp_path / "figures.json"
    # Ten callers, of whom one is served in 0.3 s: more than a second of waiting for most.
    done = load_test(
        *(server, "--url", server.url, "--grpc", server.grpc, "--callers", "10"),
        *("--deadline-ms", "1000", "--window", "1.5", "--require", "errors<1%"),
        *("--json", str(out)),
    )
    assert done.returncode == 1, done.stderr
    rest, grpc = figures(out)
    assert rest["codes"]["503"] > 0
    assert grpc["codes"]["UNAVAILABLE"] > 0
    assert rest["retry_after_s"][0] >= 1, "whole seconds"
    assert grpc["retry_after_s"][0] > 0
    assert "Retry-After" in done.stdout


def test_tls_is_spoken_with_the_authority_that_is_named(
    start_server: StartServer, tmp_path: Path
) -> None:
    authority = Authority("ours")
    secret = MountedSecret(tmp_path / "tls", files(authority.issue("server"), authority))
    server = wait_ready(start_server(settings(secret, mutual=False)))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    at = ("--url", f"https://{server.http_address}", "--grpc", f"grpcs://{server.grpc}")
    done = load_test(server, *at, "--ca-file", str(ca), "--require", "errors<0.1%")
    assert done.returncode == 0, done.stderr
    for address in (at[:2], at[2:]):
        untrusted = load_test(server, *address)
        assert untrusted.returncode == 2
        assert "--ca-file" in untrusted.stderr


def test_a_server_that_is_not_there_is_named_with_what_to_check() -> None:
    port = free_port()
    for at in (("--url", f"http://127.0.0.1:{port}"), ("--grpc", f"127.0.0.1:{port}")):
        done = load_test(None, *at)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"127.0.0.1:{port}" in done.stderr
        assert "check address, port, TLS" in done.stderr


@pytest.mark.parametrize("protocol", ["--url", "--grpc"])
def test_a_wrong_key_is_found_out_before_any_load(protocol: str, server: ServerProcess) -> None:
    at = server.url if protocol == "--url" else server.grpc
    done = load_test(None, protocol, at, key="rf_wrong-0123456789abcdefghijklmnopqr")
    assert done.returncode == 2
    assert "--key-file" in done.stderr
    assert "window" not in done.stderr
    assert "rf_wrong" not in done.stderr


def test_the_key_is_read_from_a_file(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(server.api_key + "\n")
    done = load_test(None, "--url", server.url, "--key-file", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give --url, --grpc"),
        (("--url", "ftp://x"), "is no address"),
        (("--grpc", "nowhere"), "is no address"),
        (("--url", "http://x", "--require", "p99"), "is no bound"),
        (("--url", "http://x", "--key-file", "missing"), "cannot be read as a key"),
        (("--url", "http://x", "--picture", "missing.jpg"), "name a picture file"),
        (("--url", "http://x", "--picture", "README.md"), "must be named .jpg"),
    ],
)
def test_what_cannot_be_carried_out_ends_with_2_and_the_fix(
    arguments: tuple[str, ...], says: str
) -> None:
    done = load_test(None, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
