"""What decoding in processes costs: `python -m hack.bench.decode_modes`, once on a quiet machine.

Both modes in one run, in turns, so that whatever else the machine does meets both alike. Prints
medians over the rounds, and the ratio of process to thread.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import defaultdict

from hack.load.decode_one import decode_one
from hack.load.pictures import photo
from hack.load.process_tree import ProcessTree
from predictor.bundle.manifest import Preprocessing
from predictor.inference.decode_pool import DecodePool
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_threads import ThreadDecodePool
from predictor.inference.decode_wire import Terms
from predictor.inference.decoding import DecodeLimits, decode
from predictor.inference.pictures import EncodedImage

PREPROCESSING = Preprocessing((224, 224))
LIMITS = DecodeLimits()
SIZES = {"640x480": (640, 480, 90), "12 Mpx": (4000, 3000, 80)}


async def measure(pool: DecodePool, data: bytes, seconds: float) -> dict[str, float]:
    """Throughput and CPU with four pictures always waiting, then the latency of single ones."""
    picture = EncodedImage(data)
    count = 0

    async def client(end: float) -> None:
        nonlocal count
        while time.monotonic() < end:
            await decode_one(pool, picture)
            count += 1

    tree = ProcessTree(os.getpid())
    started, cpu = time.monotonic(), tree.cpu_s()
    await asyncio.gather(*(client(started + seconds) for _ in range(4)))
    took, cpu = time.monotonic() - started, tree.cpu_s() - cpu
    single = []
    for _ in range(max(5, int(count / 8))):
        before = time.monotonic()
        await decode_one(pool, picture)
        single.append(time.monotonic() - before)
    return {
        "pictures/s": count / took,
        "CPU ms each": cpu * 1000 / count,
        "alone, ms": statistics.median(single) * 1000,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    arguments = parser.parse_args()
    terms = Terms(decode, PREPROCESSING, LIMITS, 10.0, 512 * 1024 * 1024)
    pools: dict[str, DecodePool] = {
        "thread": ThreadDecodePool(PREPROCESSING, LIMITS, workers=arguments.workers),
        "process": ProcessDecodePool(terms, workers=arguments.workers),
    }
    for name, (width, height, quality) in SIZES.items():
        data = photo(width, height, quality)
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for turn in range(arguments.rounds):
            for mode in sorted(pools, reverse=turn % 2 == 0):
                for key, value in (await measure(pools[mode], data, arguments.seconds)).items():
                    found[key][mode].append(value)
        print(f"{name}, {len(data) // 1024} KiB, {arguments.workers} workers")
        for key, by_mode in found.items():
            thread = statistics.median(by_mode["thread"])
            process = statistics.median(by_mode["process"])
            ratios = [p / t for p, t in zip(by_mode["process"], by_mode["thread"], strict=True)]
            print(
                f"  {key:12} thread {thread:8.2f}  process {process:8.2f}  "
                f"ratio {statistics.median(ratios):.3f}"
            )
    for pool in pools.values():
        pool.close()
        await pool.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
