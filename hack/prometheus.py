"""A Prometheus on this machine's loopback, for scripts and tests."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from hack.ports import free_port

PROGRAM: Final = "prometheus"
MISSING: Final = f"{PROGRAM} is not installed (Debian: apt-get install prometheus)"
_START_LIMIT_S: Final = 60.0


def installed() -> bool:
    return shutil.which(PROGRAM) is not None


class Prometheus:
    """Starts at once, and has answered when this returns.

    Args:
        directory: for its configuration, its data and its log.
        configuration: what `prometheus.yml` holds.
        flags: further ones of its command line.

    Raises:
        RuntimeError: it does not start; the message has the end of its log.
    """

    def __init__(
        self, directory: Path, configuration: Mapping[str, Any], flags: Sequence[str] = ()
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "prometheus.log"
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(dict(configuration)))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, "--config.file", str(file)),
                    *("--storage.tsdb.path", str(directory / "data")),
                    *("--web.listen-address", f"127.0.0.1:{port}", *flags),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches a terminal's whole group, and it is for whoever started this.
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The rows of an instant query: `metric` and `value`."""
        rows: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return rows

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are pending or firing."""
        alerts: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return alerts

    def label_values(self, label: str, series: str) -> list[str]:
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return values

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _get(self, what: str, **params: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=params, timeout=15)
        answer.raise_for_status()
        return answer.json()["data"]

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/-/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{PROGRAM} does not start:\n{self._log.read_text()[-2000:]}")
