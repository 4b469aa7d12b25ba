"""Serve checkpoints/debug on this machine, and print a curl to paste once it is ready.

HTTP_PORT, GRPC_PORT and METRICS_PORT choose the ports. Ctrl-C drains and stops.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from predictor.errors import StartupError
from predictor.security import api_keys, key_files

ROOT = Path(__file__).parent.parent
BUNDLE = Path("checkpoints/debug")
KEYS = Path(".run/keys")
KEY_ID = "local"


def main() -> int:
    os.chdir(ROOT)
    http_port = os.environ.get("HTTP_PORT", "8080")
    grpc_port = os.environ.get("GRPC_PORT", "8081")
    metrics_port = os.environ.get("METRICS_PORT", "8082")
    ports = {"HTTP_PORT": http_port, "GRPC_PORT": grpc_port, "METRICS_PORT": metrics_port}
    samples = sorted((BUNDLE / "samples").glob("photo*.jpg"))
    if not samples:
        print(f"{BUNDLE} has no sample pictures; restore it with git checkout", file=sys.stderr)
        return 1
    for name, port in ports.items():
        if not _is_free(port):
            print(f"port {port} cannot be used; choose another: make run {name}=…", file=sys.stderr)
            return 1
    try:
        key = _key()
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    print("starting realfake; it takes a few seconds", flush=True)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "predictor", "serve"),
            *("--model.path", BUNDLE, "--model.device", "cpu"),
            *("--server.host", "127.0.0.1", "--server.drain-delay-s", "0"),
            *("--server.http-port", http_port, "--server.grpc-port", grpc_port),
            *("--server.metrics-port", metrics_port),
            *("--auth.mode", "api_key", "--auth.keys-dir", KEYS),
        ],
        # Ctrl-C reaches a terminal's whole group; the server would take it, and ours, as two stops.
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if _wait_until_ready(server, http_port):
            _greet(http_port, grpc_port, key, samples[0])
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        return server.wait()


def _key() -> str:
    """The key of the last run, or a new one: the printed curl stays good."""
    path = KEYS / KEY_ID
    if not path.is_file():
        KEYS.parent.mkdir(mode=0o700, exist_ok=True)
        key_files.store(api_keys.generate(), KEYS, KEY_ID)
    return path.read_text(encoding="ascii").strip()


def _is_free(port: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except (OSError, ValueError, OverflowError):
            return False
        # 0 would be any free port, and nobody could say which.
        return int(port) != 0


def _wait_until_ready(server: subprocess.Popen[bytes], http_port: str) -> bool:
    url = f"http://127.0.0.1:{http_port}/v2/models/realfake/ready"
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _greet(http_port: str, grpc_port: str, key: str, sample: Path) -> None:
    print(
        f"""
realfake is ready: HTTP on 127.0.0.1:{http_port}, gRPC on 127.0.0.1:{grpc_port}. Ctrl-C stops it.
Paste this in another terminal, in this folder:

  curl -s http://127.0.0.1:{http_port}/v2/models/realfake/infer \\
    -H 'X-API-Key: {key}' \\
    -H 'Content-Type: image/jpeg' --data-binary @{sample}

The examples in docs/protocols.md want these:

  export SERVER_URL=http://127.0.0.1:{http_port} SERVER_GRPC=127.0.0.1:{grpc_port} \\
    API_KEY={key}
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
