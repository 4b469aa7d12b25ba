"""A real Prometheus, as Debian has it, with the configuration that tests want."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hack import prometheus
from tests.programs import program


class Prometheus(prometheus.Prometheus):
    """Scrapes as it is told, ten times a second.

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
        times = ("scrape_interval", "scrape_timeout", "evaluation_interval")
        if past:
            _backfill(directory / "past.om", past, directory / "data")
        super().__init__(
            directory,
            {
                "global": dict.fromkeys(times, interval),
                "rule_files": [str(file) for file in rules],
                "scrape_configs": list(scrape),
            },
        )

    def value(self, query: str) -> float:
        values = self.values(query)
        return values[0] if values else 0.0

    def values(self, query: str) -> list[float]:
        """What it answers now, one value for each series."""
        return [float(row["value"][1]) for row in self.query(query)]


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
