"""What counting costs one request with one picture, and what one scrape costs.

python -m hack.bench.metrics_cost
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from prometheus_client import generate_latest

from predictor.inference.pictures import Classification
from predictor.inference.timeline import Timeline
from predictor.telemetry.recording import OK, Metrics

ANSWER = Classification(np.array([0.9, 0.1], np.float32), 0.9, "fake")


def request(metrics: Metrics) -> None:
    """Every call that one answered request makes."""
    metrics.decoded(0.004)
    metrics.waited([0.001])
    metrics.forwarded([Timeline(0.0)], 0.0, 0.005)
    metrics.classified([ANSWER])
    metrics.encoded(0.0001)
    metrics.asked("web", OK, None)
    metrics.ended("v2", OK, 0.012, None, {"request_id": "0" * 32})


def best_us(work: Callable[[], object], times: int) -> float:
    """Microseconds of one call in the best of 5 rounds: the others were disturbed."""
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            work()
        rounds.append(time.perf_counter() - began)
    return min(rounds) / times * 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    metrics = Metrics()
    print(f"one request: {best_us(lambda: request(metrics), 10_000):.0f} us")
    print(f"one scrape:  {best_us(lambda: generate_latest(metrics.registry), 50) / 1000:.1f} ms")


if __name__ == "__main__":
    main()
