"""Run the real server as a process: start it, read its log, ask it, stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "checkpoints" / "debug"
API_KEY = "rf_tests-only-0123456789abcdefghijklb3e4f41c"
START_LIMIT_S = 120.0

T = TypeVar("T")


class ServerProcess:
    """One `python -m predictor serve` on free ports.

    Args:
        directory: holds the log and the keys.
        settings: `REALFAKE_…` variables, over the defaults below.
        command: what to run instead of the product's own entry point.
        python: of another environment than this one.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = ("-m", "predictor", "serve"),
        python: Path = Path(sys.executable),
    ) -> None:
        self.directory = directory
        self.api_key = API_KEY
        self.log_path = directory / "server.log"
        keys = directory / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        (keys / "tests").write_text(API_KEY)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("REALFAKE_")
        }
        environment |= {
            "PYTHONPATH": str(ROOT),
            "REALFAKE_MODEL__PATH": str(BUNDLE),
            "REALFAKE_SERVER__HOST": "127.0.0.1",
            "REALFAKE_SERVER__HTTP_PORT": "0",
            "REALFAKE_SERVER__GRPC_PORT": "0",
            "REALFAKE_SERVER__METRICS_PORT": "0",
            "REALFAKE_SERVER__DRAIN_DELAY_S": "0",
            "REALFAKE_AUTH__KEYS_DIR": str(keys),
            **(settings or {}),
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [python, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
            )
        self._listening: dict[str, Any] | None = None

    @property
    def listening(self) -> dict[str, Any]:
        if self._listening is None:
            self._listening = self.wait_for_log("listening")
        return self._listening

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening['http_port']}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.listening['http_port']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.listening['grpc_port']}"

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.api_key}

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=30, **options)

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30, **options)

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Every complete JSON line so far; a line that is not JSON fails the test."""
        text = self.log_text()
        complete = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in complete.splitlines() if line.strip()]

    def wait_for_log(self, message: str, limit_s: float = START_LIMIT_S) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            for line in self.log_lines():
                if line["message"] == message:
                    return line
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log_text()}")
            return None

        return eventually(found, limit_s, f"log line {message!r}: {self.log_text()}")

    def wait_ready(self) -> ServerProcess:
        with httpx.Client(base_url=self.url) as client:
            eventually(
                lambda: client.get("/v2/health/ready").status_code == 200 or None,
                START_LIMIT_S,
                "the server to be ready",
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = 60.0) -> int:
        return self.process.wait(limit_s)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def eventually(check: Callable[[], T | None], limit_s: float, what: str) -> T:
    """Poll until `check` returns something; the limit is there to fail, not to measure."""
    end = time.monotonic() + limit_s
    while True:
        value = check()
        if value is not None:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit_s:g} s for {what}")
        time.sleep(0.02)
