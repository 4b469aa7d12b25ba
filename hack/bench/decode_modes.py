"""What decoding in processes costs: `python hack/bench/decode_modes.py`, once on a quiet machine.

Both modes in one run, in turns, so that whatever else the machine does meets both alike. Prints
medians over the rounds, and the ratio of process to thread.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from predictor.bundle.manifest import Preprocessing
from predictor.inference.decode_pool import DecodePool, ThreadDecodePool
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_worker import Terms
from predictor.inference.decoding import DecodeLimits, decode
from predictor.inference.pictures import EncodedImage

PREPROCESSING = Preprocessing((224, 224))
LIMITS = DecodeLimits()
SIZES = {"640x480": (640, 480, 90), "12 Mpx": (4000, 3000, 80)}


def photo(width: int, height: int, quality: int) -> bytes:
    """Clouds with grain: as many bytes a pixel as a photograph."""
    random = np.random.default_rng(0)
    clouds = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    large = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 5, large.shape[:2])[..., None]
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8))
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cpu_s() -> float:
    """CPU seconds of this process and of all processes below it, dead or alive."""
    ticks = 0
    parents: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    wanted, grown = {int(Path("/proc/self").readlink().name)}, True
    while grown:
        more = {pid for pid, (parent, _) in parents.items() if parent in wanted} - wanted
        grown, wanted = bool(more), wanted | more
    ticks = sum(parents[pid][1] for pid in wanted if pid in parents)
    return ticks / 100


async def measure(pool: DecodePool, data: bytes, seconds: float) -> dict[str, float]:
    """Throughput and CPU with four pictures always waiting, then the latency of single ones."""
    picture = EncodedImage(data)
    count = 0

    async def client(end: float) -> None:
        nonlocal count
        while time.monotonic() < end:
            await pool.submit(picture, None)
            count += 1

    started, cpu = time.monotonic(), cpu_s()
    await asyncio.gather(*(client(started + seconds) for _ in range(4)))
    took, cpu = time.monotonic() - started, cpu_s() - cpu
    single = []
    for _ in range(max(5, int(count / 8))):
        before = time.monotonic()
        await pool.submit(picture, None)
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


if __name__ == "__main__":
    asyncio.run(main())
