"""A server of one's own to measure: on free ports, with a key of its own, gone afterwards."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from hack.ports import free_port
from predictor.security import api_keys

ROOT: Final = Path(__file__).parents[2]
BUNDLE: Final = ROOT / "checkpoints" / "debug"
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    """Attributes: ready_s: seconds from the start of the process until it was ready."""

    port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    api_key: str
    ready_s: float

    def resident_bytes(self) -> int:
        """Memory of the server's process: decoders and lanes have their own."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def serving(bundle: Path = BUNDLE, settings: Sequence[str] = ()) -> Iterator[Served]:
    """Serve a bundle on loopback until the end of the block.

    Args:
        settings: `--group.name value`, as on the command line.
    """
    with tempfile.TemporaryDirectory() as keys:
        key = api_keys.generate()
        (Path(keys) / "load").write_text(key)
        port, grpc_port = free_port(), free_port()
        began = time.monotonic()
        process = start(port, grpc_port, Path(keys), settings, bundle=bundle)
        try:
            wait_until_ready(process, port)
            yield Served(port, grpc_port, process, key, time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def serve_command(
    bundle: Path, port: int, grpc_port: int, keys: Path, *, metrics_port: int = 0
) -> list[str]:
    """The product on loopback, with its default settings apart from ports and keys."""
    return [
        *(sys.executable, "-m", "predictor", "serve", "--model.path", str(bundle)),
        *("--server.host", "127.0.0.1", "--server.drain-delay-s", "0"),
        *("--server.http-port", str(port), "--server.grpc-port", str(grpc_port)),
        *("--server.metrics-port", str(metrics_port), "--auth.keys-dir", str(keys)),
    ]


def start(
    port: int,
    grpc_port: int,
    keys: Path,
    settings: Sequence[str] = (),
    *,
    bundle: Path = BUNDLE,
    metrics_port: int = 0,
    output: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a server, in a process group of its own so that Ctrl-C is left to the caller."""
    return subprocess.Popen(
        [*serve_command(bundle, port, grpc_port, keys, metrics_port=metrics_port), *settings],
        cwd=ROOT,
        stdout=output,
        start_new_session=True,
    )


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Raises: SystemExit: it ended instead."""
    while process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(_POLL_S)
    raise SystemExit(f"the server ended with {process.returncode}")
