"""A real Prometheus, as Debian has it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.programs import Processes, free_port, program
from tests.server.process import eventually

START_LIMIT_S = 60.0


class Prometheus:
    """Attributes: url: of its API.

    Args:
        scrape: `scrape_configs` of its configuration.
        interval: between two scrapes, and between two evaluations of rules.
        past: samples of before it was started, as OpenMetrics text.
    """

    def __init__(
        self,
        directory: Path,
        scrape: Sequence[dict[str, Any]],
        *,
        interval: str = "100ms",
        rules: Sequence[Path] = (),
        past: str = "",
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        configuration = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": [str(file) for file in rules],
            "scrape_configs": list(scrape),
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        data = directory / "data"
        if past:
            _backfill(directory / "past.om", past, data)
        self._processes = Processes(directory)
        self._processes.start(
            "prometheus",
            *("--config.file", str(directory / "prometheus.yml")),
            *("--storage.tsdb.path", str(data)),
            *("--web.listen-address", f"127.0.0.1:{port}"),
        )
        eventually(self._ready, START_LIMIT_S, f"a Prometheus in {directory}")

    def value(self, query: str) -> float:
        values = self.values(query)
        return values[0] if values else 0.0

    def values(self, query: str) -> list[float]:
        """What it answers now, one value for each series."""
        return [float(row["value"][1]) for row in self._ask("query", query=query)["result"]]

    def label_values(self, label: str, series: str) -> list[str]:
        found: list[str] = self._ask(f"label/{label}/values", **{"match[]": series})
        return found

    def _ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def _ready(self) -> bool | None:
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200 or None
        except httpx.TransportError:
            return None

    def stop(self) -> None:
        self._processes.stop()


def _backfill(file: Path, text: str, data: Path) -> None:
    promtool = program("promtool")
    assert promtool is not None
    file.write_text(text)
    done = subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", file, data],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
