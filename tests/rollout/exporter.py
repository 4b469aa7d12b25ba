"""Metrics over HTTP under the predictor's own names, for as many replicas as a test asks for."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

BUCKETS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0)
POD = ("namespace", "pod")


class Exporter:
    """One target of Prometheus. It labels pods itself, as service discovery would."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter(
            "inference_requests",
            "Requests.",
            (*POD, "protocol", "model_version", "code"),
            registry=registry,
        )
        self.verdicts = Counter(
            "inference_verdicts", "Verdicts.", (*POD, "verdict", "model_version"), registry=registry
        )
        self.durations = Histogram(
            "inference_duration_seconds",
            "Time.",
            (*POD, "protocol", "model_version"),
            registry=registry,
            buckets=BUCKETS,
        )
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry=registry)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Replica:
    """One pod, whose counters a test moves."""

    def __init__(self, exporter: Exporter, namespace: str, pod: str) -> None:
        self._exporter = exporter
        self._pod = (namespace, pod)

    def observe(
        self,
        codes: Mapping[str, int],
        verdicts: Mapping[str, int] | None = None,
        durations: Mapping[float, int] | None = None,
    ) -> None:
        """Count requests by code, verdicts by name, and durations in seconds."""
        # Requests last: who waits for them to be scraped has the rest too.
        for seconds, count in (durations or {}).items():
            for _ in range(count):
                self._exporter.durations.labels(*self._pod, "http", "1").observe(seconds)
        for verdict, count in (verdicts or {}).items():
            self._exporter.verdicts.labels(*self._pod, verdict, "1").inc(count)
        for code, count in codes.items():
            self._exporter.requests.labels(*self._pod, "http", "1", code).inc(count)

    def restart_with(self, code: str, count: int) -> None:
        """As a container that crashed: the same pod, and counters that begin again."""
        self._exporter.requests.remove(*self._pod, "http", "1", code)
        self.observe({code: count})
