"""What it costs one request with one picture to be counted and traced, and what one scrape costs.

python -m hack.bench.telemetry_cost
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import generate_latest

from predictor.inference.pictures import Classification
from predictor.inference.timeline import STAGES, Timeline
from predictor.telemetry.recording import OK, Metrics
from predictor.telemetry.tracing import Tracer

ANSWER = Classification(np.array([0.9, 0.1], np.float32), 0.9, "fake")
EXEMPLAR = {"request_id": "0" * 32, "trace_id": "0" * 32}


class Nowhere(SpanExporter):
    """Writes spans down as they are sent, and sends them nowhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializePartialToString()
        return SpanExportResult.SUCCESS


def passed() -> Timeline:
    timeline = Timeline(time.monotonic())
    for stage in STAGES[1:]:
        timeline.enter(stage, time.monotonic())
    return timeline


def counted(metrics: Metrics) -> None:
    """Every call that one answered request makes."""
    metrics.decoded(0.004)
    metrics.waited([0.001])
    metrics.forwarded([passed()], 0.0, 0.005)
    metrics.classified([ANSWER])
    metrics.encoded(0.0001)
    metrics.asked("web", OK, None)
    metrics.ended("v2", OK, 0.012, None, EXEMPLAR)


def traced(tracer: Tracer) -> None:
    timeline = passed()
    trace = tracer.begin(None, timeline)
    tracer.forwarded([timeline], timeline.began, timeline.began)
    tracer.end(trace, timeline, name="/infer", failed=False, attributes=EXEMPLAR)


def best_us(work: Callable[[], object], times: int) -> float:
    """Microseconds of one call in the best of 5 rounds: the others were disturbed."""
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            work()
        rounds.append(time.perf_counter() - began)
    return min(rounds) / times * 1e6


def cpu_us(tracer: Tracer, times: int) -> float:
    """Microseconds of CPU, of all threads, for one request of as many as the queue takes."""
    began = time.process_time()
    for _ in range(times):
        traced(tracer)
    tracer.close()
    return (time.process_time() - began) / times * 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    metrics = Metrics()
    print(f"counted:          {best_us(lambda: counted(metrics), 10_000):.0f} us")
    for ratio, what in ((0.0, "not sampled:     "), (1.0, "traced:          ")):
        tracer = Tracer(Nowhere(), sample_ratio=ratio, service="bench")
        print(f"{what} {cpu_us(tracer, 5_000):.0f} us, the exporter's thread included")
    print(f"one scrape: {best_us(lambda: generate_latest(metrics.registry), 50) / 1000:.1f} ms")


if __name__ == "__main__":
    main()
