"""What this machine can do without a server: decoding and the forward, in the best shape.

`python -m hack.bench.limit --bundle … --engine onnx --pictures a.jpg b.jpg` prints JSON. A process
of its own, as a server is one: torch's threads and memory are not the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import read_manifest
from predictor.inference.cpus import usable_cpus
from predictor.inference.decoding import DecodeLimits, decode
from predictor.inference.engines import make_engine
from predictor.settings import ModelSettings

BATCHES: Final = (1, 4, 16)
_LIMITS: Final = DecodeLimits()
_PATIENCE_S: Final = 300.0


class Work:
    """Decoding and the forward of one picture again and again, as the predictor does both."""

    def __init__(self, bundle: Path, engine: str) -> None:
        self._manifest = read_manifest(bundle)
        settings = {"path": bundle, "engine": engine, "device": "cpu"}
        self._engine = make_engine(self._manifest, ModelSettings.model_validate(settings))

    def forward(self, pictures: Sequence[bytes]) -> NDArray[np.float32]:
        """Logits of a batch."""
        pixels = [decode(data, self._manifest.preprocessing, _LIMITS) for data in pictures]
        return self._engine.forward(np.stack(pixels))

    def fake_probabilities(self, pictures: Sequence[bytes]) -> list[float]:
        logits = self.forward(pictures).astype(np.float64) / self._manifest.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        rows = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return [self._manifest.verdicts.fake_probability(row) for row in rows]

    def per_second(self, picture: bytes, batch: int, seconds: float) -> float:
        """Pictures a second of the thread that calls."""
        batch_of = [picture] * batch
        self.forward(batch_of)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self.forward(batch_of)
            count += batch
        return count / (time.perf_counter() - began)

    def alone_s(self, picture: bytes, seconds: float) -> float:
        """Median of decoding and the forward of one picture while nothing else is done."""
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            before = time.perf_counter()
            self.forward([picture])
            taken.append(time.perf_counter() - before)
        return statistics.median(taken)


def in_threads(work: Work, picture: bytes, batch: int, seconds: float, lanes: int) -> float:
    """Pictures a second, all lanes together."""
    rates: list[float] = []

    def lane() -> None:
        rates.append(work.per_second(picture, batch, seconds))

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def in_processes(
    bundle: Path, engine: str, picture: bytes, seconds: float, lanes: int
) -> dict[int, float]:
    """Pictures a second by batch, all lanes together."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(lanes), context.Queue()
    arguments = (bundle, engine, picture, seconds)
    shared = {"barrier": barrier, "rates": rates}
    processes = [
        context.Process(target=_process, args=arguments, kwargs=shared) for _ in range(lanes)
    ]
    for process in processes:
        process.start()
    found = dict.fromkeys(BATCHES, 0.0)
    try:
        for _ in range(lanes * len(BATCHES)):
            batch, rate = rates.get(timeout=_PATIENCE_S)
            found[batch] += rate
    except queue.Empty:
        raise SystemExit("a process of the measurement without a server ended early") from None
    finally:
        for process in processes:
            process.join()
    return found


def _process(
    bundle: Path, engine: str, picture: bytes, seconds: float, *, barrier: Any, rates: Any
) -> None:
    work = Work(bundle, engine)
    for batch in BATCHES:
        barrier.wait()
        rates.put((batch, work.per_second(picture, batch, seconds)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--engine", choices=("torch", "onnx"), required=True)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="first: measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each shape")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in options.pictures]
    print(json.dumps(measure(options.bundle, options.engine, pictures, options.seconds)))
    return 0


def measure(bundle: Path, engine: str, pictures: Sequence[bytes], seconds: float) -> dict[str, Any]:
    work, cores = Work(bundle, engine), usable_cpus()
    shapes: dict[str, float] = {}
    for batch in BATCHES:
        rate = in_threads(work, pictures[0], batch, seconds, cores)
        shapes[f"{cores} threads, batch {batch}"] = rate
    for batch, rate in in_processes(bundle, engine, pictures[0], seconds, cores).items():
        shapes[f"{cores} processes, batch {batch}"] = rate
    return {
        "shapes": shapes,
        "alone_s": work.alone_s(pictures[0], seconds),
        "fake": work.fake_probabilities(pictures),
    }


if __name__ == "__main__":
    sys.exit(main())
