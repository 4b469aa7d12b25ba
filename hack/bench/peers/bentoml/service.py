"""A BentoML service with adaptive batching, and a worker for each core."""

from __future__ import annotations

from pathlib import Path

import bentoml
from classifier import cores, make


@bentoml.service(workers=cores(), traffic={"timeout": 60})
class Detector:
    def __init__(self) -> None:
        self._classifier = make(threads=1)

    # A latency that no load here reaches: BentoML refuses what it expects to take longer.
    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=30_000)
    def classify(self, pictures: list[Path]) -> list[dict[str, float]]:
        prepared = [self._classifier.prepare(path.read_bytes()) for path in pictures]
        return self._classifier.probabilities(prepared)
