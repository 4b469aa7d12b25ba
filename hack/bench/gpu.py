"""What a GPU reaches behind this server: `python -m hack.bench.gpu`.

First the limit: forwards alone, of two threads as the server's lanes are, from this machine's
memory to the GPU and back, with CUDA graphs and without. Then a server that is sent the same
pictures decoded, as `pixels` over gRPC, by callers in a closed loop, and its share of that limit.
`--device cpu` shows on any machine that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import uvloop
from numpy.typing import NDArray

from hack.bench.engines import calls_a_second
from hack.load.bundles import bundle_of
from hack.load.grpc_caller import GrpcCaller, infer_pixels
from hack.load.loops import ClosedLoop
from hack.load.samples import Window, shown_ms
from hack.load.server import Served, serving
from predictor.bundle.manifest import read_manifest
from predictor.inference.engines import make_engine
from predictor.settings import ModelSettings

BATCHES: Final = (1, 4, 8, 16, 32)
CALLERS: Final = (1, 8, 32, 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", default="efficientnet_b4,convnext_base")
    parser.add_argument("--largest", type=int, default=BATCHES[-1], help="pictures in a batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    options = parser.parse_args()
    print(f"{_name(options.device)}, {os.cpu_count()} CPU cores\n")
    with tempfile.TemporaryDirectory() as directory:
        for name in options.networks.split(","):
            bundle = bundle_of(name, Path(directory))
            batches = [*(size for size in BATCHES if size < options.largest), options.largest]
            best = limit(name, bundle, options.device, batches, options.seconds)
            print(f"| {name}, callers | pictures/s | of the limit | p50, ms | p99, ms |")
            print("|---|---|---|---|---|")
            served = ["--model.device", options.device, "--model.engine", "torch"]
            served += ["--batching.max-batch-size", str(batches[-1])]
            serve(bundle, served, best, options.seconds)
    return 0


def limit(name: str, bundle: Path, device: str, batches: list[int], seconds: float) -> float:
    """Print forwards by batch; return the most pictures a second."""
    manifest = read_manifest(bundle)
    engines = []
    for graphs in (True, False):
        settings = {"path": bundle, "engine": "torch", "device": device, "cuda_graphs": graphs}
        engines.append(make_engine(manifest, ModelSettings.model_validate(settings)))
        engines[-1].warm_up(batches)
    print(f"| {name}, batch | with graphs, pictures/s | without | ratio |\n|---|---|---|---|")
    best = 0.0
    for batch in batches:
        pixels = _noise(batch, manifest.preprocessing.input_size)
        rates = [batch * calls_a_second(each, pixels, each.lanes, seconds) for each in engines]
        best = max(best, *rates)
        print(f"| {batch} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[0] / rates[1]:.2f} |")
    print(flush=True)
    engines.clear()
    torch.cuda.empty_cache()
    return best


def serve(bundle: Path, settings: Sequence[str], best: float, seconds: float) -> None:
    """Print what a server answers, by callers, beside the most that forwards alone reached."""
    request = infer_pixels("realfake", _noise(1, read_manifest(bundle).preprocessing.input_size))
    with (
        serving(bundle, settings) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        for callers in CALLERS:
            window = runner.run(_ask(server, request, callers, seconds))
            waits = window.seconds()
            print(
                f"| {callers} | {window.throughput:.0f} | {window.throughput / best:.0%} "
                f"| {shown_ms(waits, 0.5)} | {shown_ms(waits, 0.99)} |",
                flush=True,
            )
    print()


async def _ask(server: Served, request: bytes, callers: int, seconds: float) -> Window:
    caller = GrpcCaller(f"127.0.0.1:{server.grpc_port}", request, api_key=server.api_key)
    loop = ClosedLoop(caller, callers)
    loop.start()
    await loop.warm_up(seconds)
    window = await loop.window(seconds)
    await loop.stop()
    await caller.close()
    if window.errors:
        raise SystemExit(f"not all answers were good: {dict(window.codes)}")
    return window


def _noise(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Not black: a multiplication by zero draws less power, and lets a GPU run faster."""
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def _name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    sys.exit(main())
