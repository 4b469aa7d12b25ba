"""What a Prometheus would see of a server."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.process import ServerProcess


@dataclass(frozen=True)
class Scrape:
    """One look. Attributes: families: names that have at least one series."""

    families: frozenset[str]
    samples: tuple[tuple[str, dict[str, str], float], ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels; 0 where there are none."""
        return sum(
            value
            for found, given, value in self.samples
            if found == name and labels.items() <= given.items()
        )

    def by(self, label: str, name: str) -> dict[str, float]:
        """Sums of a metric's series, by what a label says, without those of 0."""
        totals: dict[str, float] = {}
        for found, given, value in self.samples:
            if found == name and value:
                totals[given[label]] = totals.get(given[label], 0.0) + value
        return totals


def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.listening['metrics_port']}/metrics"


def scrape(server: ServerProcess) -> Scrape:
    answer = httpx.get(url(server), timeout=30)
    assert answer.status_code == 200, answer.text
    families = list(text_string_to_metric_families(answer.text))
    samples = tuple(
        (sample.name, dict(sample.labels), sample.value)
        for family in families
        for sample in family.samples
    )
    return Scrape(frozenset(name for name, _, _ in samples), samples)
