"""What each engine is worth on this machine's CPU: `python -m hack.bench.engines`.

The forward alone, in pictures a second, by network, batch and lanes; and a whole replica: seconds
from its start until it is ready, and the memory of all its processes (PSS). Both engines in one
run, in turns, so that whatever else the machine does meets both alike; medians over the rounds.
Weights are random: they cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hack.load.bundles import bundle_of
from hack.load.process_tree import ProcessTree
from hack.load.server import serving
from predictor.bundle.manifest import read_manifest
from predictor.inference.engine import Engine
from predictor.inference.engines import make_engine
from predictor.settings import ModelSettings

ENGINES: Final = ("torch", "onnx")
BATCHES: Final = (1, 4)
MIB: Final = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default="debug,mobilenetv3_small_100,resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory() as directory:
        bundles = {name: bundle_of(name, Path(directory)) for name in options.networks.split(",")}
        print("| network | batch | lanes | torch, pictures/s | onnx, pictures/s | ratio |")
        print("|---|---|---|---|---|---|")
        for name, path in bundles.items():
            manifest = read_manifest(path)
            engines = {kind: make_engine(manifest, settings(path, kind)) for kind in ENGINES}
            for batch in BATCHES:
                pixels = np.zeros((batch, *manifest.preprocessing.input_size, 3), np.uint8)
                for lanes in (1, os.cpu_count() or 1):
                    rates = forwards(engines, pixels, lanes, options.rounds, options.seconds)
                    print(row(name, batch, lanes, rates), flush=True)
        print("\n| network | torch, ready in s | onnx | ratio | torch, MiB | onnx | ratio |")
        print("|---|---|---|---|---|---|---|")
        for name, path in bundles.items():
            print(replicas(name, path, options.rounds), flush=True)
    return 0


def settings(path: Path, engine: str) -> ModelSettings:
    return ModelSettings.model_validate({"path": path, "engine": engine, "device": "cpu"})


def forwards(
    engines: Mapping[str, Engine],
    pixels: NDArray[np.uint8],
    lanes: int,
    rounds: int,
    seconds: float,
) -> dict[str, float]:
    """Pictures a second of each engine."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, engine in engines.items():
            calls = calls_a_second(engine, pixels, lanes, seconds)
            rates[name].append(len(pixels) * calls)
    return {name: statistics.median(found) for name, found in rates.items()}


def calls_a_second(engine: Engine, pixels: NDArray[np.uint8], lanes: int, seconds: float) -> float:
    engine.forward(pixels)
    began = time.perf_counter()
    counts = [0] * lanes

    def lane(number: int) -> None:
        while time.perf_counter() - began < seconds:
            engine.forward(pixels)
            counts[number] += 1

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def row(name: str, batch: int, lanes: int, rates: Mapping[str, float]) -> str:
    torch, onnx = rates["torch"], rates["onnx"]
    return f"| {name} | {batch} | {lanes} | {torch:.0f} | {onnx:.0f} | {onnx / torch:.1f} |"


def replicas(name: str, path: Path, rounds: int) -> str:
    """Start a replica with each engine in turns, and look at it once it is ready."""
    ready: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for engine in ENGINES:
            with serving(path, ["--model.engine", engine, "--model.device", "cpu"]) as server:
                ready[engine].append(server.ready_s)
                memory[engine].append(ProcessTree(server.process.pid).memory_bytes() / MIB)
    cells = [name]
    for found, digits in ((ready, 1), (memory, 0)):
        torch, onnx = (statistics.median(found[engine]) for engine in ENGINES)
        cells += [f"{torch:.{digits}f}", f"{onnx:.{digits}f}", f"{onnx / torch:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
