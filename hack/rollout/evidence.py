"""What Prometheus knows of one track over a window. Metric names are the predictor's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from hack.rollout.errors import RolloutError

# What a healthy replica does not answer. Refusals of bad requests say nothing about a version.
FAULTS: Final = frozenset({"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "OVERLOADED", "NOT_READY"})
ABSTAINED: Final = "uncertain"
FAKE: Final = "fake"
_TIMEOUT_S: Final = 15


@dataclass(frozen=True)
class Evidence:
    """Counts over one window; fractions can occur where counters were summed."""

    codes: Mapping[str, float]
    verdicts: Mapping[str, float]
    durations: Mapping[float, float]
    """Cumulative counts by upper bound in seconds."""
    restarts: float
    """How often a process began its counters again, losing what they held."""

    @property
    def faults(self) -> float:
        return sum(count for code, count in self.codes.items() if code in FAULTS)

    @property
    def served(self) -> float:
        """Requests that were answered or failed through the server's fault."""
        return self.codes.get("OK", 0.0) + self.faults

    @property
    def judged(self) -> float:
        """Pictures that got a verdict."""
        return sum(self.verdicts.values())


class Prometheus:
    """A Prometheus server, asked over its HTTP API.

    Args:
        url: its address, without /api/v1.
        token: sent as a bearer token.
        pod_label: what the scrape configuration calls a pod.
    """

    def __init__(self, url: str, token: str | None = None, pod_label: str = "pod") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pod_label = pod_label

    def evidence(self, namespace: str, pods: str, window: str) -> Evidence:
        """Count what the pods did in a window that ends now.

        Args:
            pods: regular expression for whole pod names.
            window: a PromQL duration, such as 15m.

        Raises:
            RolloutError: Prometheus cannot be asked, or refuses.
        """
        only = f'namespace="{namespace}",{self._pod_label}=~"{pods}"'
        buckets = self._totals(f"inference_duration_seconds_bucket{{{only}}}", window, "le")
        requests = f"inference_requests_total{{{only}}}"
        restarts = self._query(f"sum(max by ({self._pod_label}) (resets({requests}[{window}])))")
        return Evidence(
            codes=self._totals(requests, window, "code"),
            verdicts=self._totals(f"inference_verdicts_total{{{only}}}", window, "verdict"),
            durations={float(bound): count for bound, count in buckets.items()},
            restarts=float(restarts[0]["value"][1]) if restarts else 0.0,
        )

    def _totals(self, series: str, window: str, label: str) -> dict[str, float]:
        # Not increase(): it misses what a counter held when it was first scraped, and a canary's
        # counters are all new. The greatest value also outlives the pod.
        most = f"max_over_time({series}[{window}])"
        query = (
            f"sum by ({label}) (clamp_min({most} - ({series} offset {window} or {most} * 0), 0))"
        )
        found = {row["metric"].get(label, ""): float(row["value"][1]) for row in self._query(query)}
        return {name: count for name, count in found.items() if math.isfinite(count)}

    def _query(self, query: str) -> list[dict[str, Any]]:
        try:
            answer = httpx.get(
                f"{self._url}/api/v1/query",
                params={"query": query},
                headers=self._headers,
                timeout=_TIMEOUT_S,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RolloutError(
                f"Prometheus at {self._url} cannot be reached ({type(error).__name__});"
                " give its address with --prometheus"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise RolloutError(
                f"Prometheus answered {answer.status_code} to a query: {answer.text[:300]}"
            )
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result
