"""What happens, counted under the names of `metrics.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from predictor.errors import (
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthenticated,
    WireError,
)
from predictor.inference.observer import CANCELLED, Observer
from predictor.inference.pictures import Classification
from predictor.inference.timeline import Timeline
from predictor.telemetry import metrics
from predictor.telemetry.metrics import Metric

OK = "OK"

M = TypeVar("M", Counter, Histogram)


class _Series(dict[tuple[str, ...], M]):
    """The series of a metric by the values of its labels: the library's own way to them takes a
    lock and checks every label again, for each of a request's counts."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        series: M = self._metric.labels(*values)
        self[values] = series
        return series


TURNED_AWAY = (Overloaded, NotReady, RateLimited)
"""Refusals that say nothing about the request, and come by the thousand."""


class Metrics(Observer):
    """One instance per process, with a registry of its own; may be called from any thread."""

    def __init__(self) -> None:
        # They would be a second series for each, which nothing asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = CollectorRegistry()
        self.model_version = "none"
        self._requests = _Series(self._counter(metrics.REQUESTS))
        self._duration = _Series(self._histogram(metrics.DURATION))
        stage = self._histogram(metrics.STAGE)
        self._decode, self._queue, self._forward, self._encode = (
            stage.labels(name) for name in ("decode", "queue", "forward", "encode")
        )
        self._batch_size = self._histogram(metrics.BATCH_SIZE)
        self._queue_wait = self._histogram(metrics.QUEUE_WAIT)
        self._rejections = _Series(self._counter(metrics.REJECTIONS))
        self._images = _Series(self._counter(metrics.IMAGES))
        self._verdicts = _Series(self._counter(metrics.VERDICTS))
        self._fake_probability = self._histogram(metrics.FAKE_PROBABILITY)
        self._lag = self._histogram(metrics.LOOP_LAG)
        self._info = Gauge(
            metrics.MODEL_INFO.name,
            metrics.MODEL_INFO.why,
            metrics.MODEL_INFO.labels,
            registry=self.registry,
        )
        self._key_requests = _Series(self._counter(metrics.KEY_REQUESTS))
        self._readings = _Readings()
        self.registry.register(self._readings)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.why, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(
            metric.name, metric.why, metric.labels, buckets=metric.buckets, registry=self.registry
        )

    def read(self, metric: Metric, value: Callable[[], float | None], **labels: str) -> None:
        """Ask for `value` at every scrape, in the scrape's thread; None is no series. Again for
        the same labels, it replaces what was asked before.
        """
        self._readings.add(metric, labels, value)

    # Requests, as the edges see them

    def ended(
        self,
        protocol: str,
        code: str,
        seconds: float,
        error: WireError | None,
        exemplar: dict[str, str] | None = None,
    ) -> None:
        """Count a request for inference.

        Args:
            code: `error`'s, or OK, or how the call was ended from outside.
            exemplar: what leads from here to its log line and trace.
        """
        failed = isinstance(error, ServiceError) and not isinstance(error, TURNED_AWAY)
        self._requests[protocol, self.model_version, code].inc(
            exemplar=exemplar if failed else None
        )
        if code == OK or isinstance(error, DeadlineExceeded):
            self._duration[protocol, self.model_version].observe(seconds, exemplar)
        if isinstance(error, TURNED_AWAY):
            self._rejections[(error.reason,)].inc()

    def asked(self, key_id: str | None, code: str, error: WireError | None) -> None:
        """Count a request on a route that wants a key."""
        self._key_requests[key_id or "", _outcome(code, error)].inc()

    def encoded(self, seconds: float) -> None:
        self._encode.observe(seconds)

    def lagged(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def serves(self, **model: str) -> None:
        """Note what is served from now on.

        Args:
            model: the labels of `inference_model_info`.
        """
        self.model_version = model["version"]
        self._info.labels(**model).set(1)

    # Pictures, as inference reports them

    def decoded(self, seconds: float) -> None:
        self._decode.observe(seconds)

    def waited(self, seconds: Sequence[float]) -> None:
        for wait in seconds:
            self._queue.observe(wait)
            self._queue_wait.observe(wait)

    def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
        self._forward.observe(ended - began)
        self._batch_size.observe(len(pictures))

    def classified(self, results: Sequence[Classification]) -> None:
        self._images[("classified",)].inc(len(results))
        for result in results:
            self._verdicts[result.verdict, self.model_version].inc()
            self._fake_probability.observe(result.fake_prob)

    def unanswered(self, pictures: int, code: str) -> None:
        self._images[(code.lower(),)].inc(pictures)


class _Readings(Collector):
    """Values that others hold already, asked for when somebody scrapes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Metric, dict[tuple[str, ...], Callable[[], float | None]]] = {}

    def add(
        self, metric: Metric, labels: Mapping[str, str], value: Callable[[], float | None]
    ) -> None:
        given = tuple(labels[name] for name in metric.labels)
        with self._lock:
            self._values.setdefault(metric, {})[given] = value

    def collect(self) -> Iterator[Family]:
        with self._lock:
            values = [(metric, list(series.items())) for metric, series in self._values.items()]
        for metric, series in values:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.why, labels=metric.labels)
            for given, read in series:
                if (value := read()) is not None:
                    family.add_metric(given, value)
            yield family


def _outcome(code: str, error: WireError | None) -> str:
    if error is None:
        return "ok" if code == OK else CANCELLED.lower()
    if isinstance(error, Unauthenticated | RateLimited):
        return error.code.lower()
    return "failed" if isinstance(error, ServiceError) else "refused"
