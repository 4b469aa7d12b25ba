"""An installation as Prometheus sees one in a cluster: pods that come and go, with their labels."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hack.load.server import start, wait_until_ready
from hack.ports import free_port
from hack.prometheus import Prometheus
from predictor.security import api_keys

NAMESPACE: Final = "vision"
JOB: Final = "realfake-predictor"
"""As in the runbooks, so that what they ask can be pasted."""
KEY_ID: Final = "drill"
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Pod:
    """One server process."""

    name: str
    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        text = self.log.read_text(errors="replace")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Installation:
    """Servers of the debug bundle, with one directory of keys.

    Args:
        directory: for keys and logs.
        targets: the file that tells Prometheus whom to scrape.
        settings: for every server, as on the command line.
    """

    def __init__(
        self,
        directory: Path,
        targets: Path,
        prometheus: Prometheus,
        settings: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._targets = targets
        self._prometheus = prometheus
        self._settings = settings
        self._pods: list[Pod] = []
        self._started = 0
        self.keys = directory / "keys"
        self.keys.mkdir()
        self.api_key = api_keys.generate()
        (self.keys / KEY_ID).write_text(self.api_key)

    @property
    def pod(self) -> Pod:
        """The newest, which is the one that requests go to."""
        return self._pods[-1]

    def add(self, *settings: str) -> Pod:
        """Start one more server, and return when it is ready and Prometheus reads it."""
        self._started += 1
        name = f"{JOB}-{self._started}"
        port, metrics_port = free_port(), free_port()
        path = self._directory / f"{name}.log"
        with path.open("wb") as log:
            process = start(
                *(port, 0, self.keys, (*self._settings, *settings)),
                metrics_port=metrics_port,
                output=log,
            )
        self._pods.append(Pod(name, port, metrics_port, process, path))
        wait_until_ready(process, port)
        self._announce()
        # Prometheus takes up to five seconds to hear of it: minutes, on the drill's clock.
        while not self._prometheus.query(f'up{{pod="{name}"}} == 1'):
            time.sleep(_POLL_S)
        return self.pod

    def remove(self, pod: Pod, number: signal.Signals = signal.SIGTERM) -> None:
        """End a server, and everything that it started."""
        pod.process.send_signal(number)
        pod.process.wait()
        with contextlib.suppress(ProcessLookupError):  # as it should be
            os.killpg(pod.process.pid, signal.SIGKILL)
        self._pods.remove(pod)
        self._announce()

    def stop(self) -> None:
        while self._pods:
            # One that is stopped takes no other signal.
            self.remove(self.pod, signal.SIGKILL)

    def _announce(self) -> None:
        """Tell Prometheus, with the labels that the chart's monitor gives."""
        targets = [
            {
                "targets": [f"127.0.0.1:{pod.metrics_port}"],
                "labels": {
                    "namespace": NAMESPACE,
                    "job": JOB,
                    "pod": pod.name,
                    "track": "stable",
                },
            }
            for pod in self._pods
        ]
        partial = self._targets.with_suffix(".partial")
        partial.write_text(json.dumps(targets))
        partial.replace(self._targets)
