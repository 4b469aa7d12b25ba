"""The metrics of one replica over HTTP, under the predictor's own names."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from tests.server.process import eventually

BUCKETS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0)


class Replica:
    """An exporter on a free port, whose counters a test moves."""

    def __init__(self, pod: str) -> None:
        self.pod = pod
        self._port = 0
        self._listen()
        self.address = f"127.0.0.1:{self._port}"

    def observe(
        self,
        codes: Mapping[str, int],
        verdicts: Mapping[str, int] | None = None,
        durations: Mapping[float, int] | None = None,
    ) -> None:
        """Count requests by code, verdicts by name, and durations in seconds."""
        for code, count in codes.items():
            self._requests.labels("http", "1", code).inc(count)
        for verdict, count in (verdicts or {}).items():
            self._verdicts.labels(verdict, "1").inc(count)
        for seconds, count in (durations or {}).items():
            for _ in range(count):
                self._durations.labels("http", "1").observe(seconds)

    def restart(self) -> None:
        """As a container that crashed: the same pod and port, counters from 0."""
        self.stop()
        self._listen()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _listen(self) -> None:
        registry = CollectorRegistry()
        version = ("protocol", "model_version")
        self._requests = Counter(
            "inference_requests", "Requests.", (*version, "code"), registry=registry
        )
        self._verdicts = Counter(
            "inference_verdicts", "Verdicts.", ("verdict", "model_version"), registry=registry
        )
        self._durations = Histogram(
            "inference_duration_seconds", "Time.", version, registry=registry, buckets=BUCKETS
        )

        def listen() -> bool | None:
            try:
                self._server, self._thread = start_http_server(
                    self._port, "127.0.0.1", registry=registry
                )
            except OSError:
                return None
            return True

        eventually(listen, 10, "the replica's port")
        self._port = self._server.server_port
