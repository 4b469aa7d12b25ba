"""Drive a server past its capacity and print what becomes of it: `make overload`.

Finds the capacity with a closed loop, then sends a steady stream of 1, 2, 5 and 10 times as many
requests as that, each with a deadline. Server and client share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import uvloop

from hack.load.bundles import bundle_of
from hack.load.client import LoadClient, Samples, post
from hack.load.server import BUNDLE, Served, serving

PATH = "/v2/models/realfake/infer"
MIB = 1024 * 1024
PAUSE_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="debug", help="the debug bundle, or a name of timm's")
    parser.add_argument("--picture", type=Path, default=BUNDLE / "samples" / "photo-1.jpg")
    parser.add_argument("--deadline-ms", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each load")
    parser.add_argument("--callers", type=int, default=16, help="of the closed loop")
    parser.add_argument("--loads", default="1,2,5,10", help="times the capacity")
    options, settings = parser.parse_known_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(bundle_of(options.network, Path(directory)), settings) as server,
    ):
        headers = {"X-API-Key": server.api_key, "Content-Type": "image/jpeg"}
        deadline = {"X-Request-Timeout-Ms": str(options.deadline_ms)}
        picture = options.picture.read_bytes()
        unhurried = post(PATH, picture, headers)
        request = post(PATH, picture, headers | deadline)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(options, server, request, unhurried))
    return 0


async def _measure(
    options: argparse.Namespace, server: Served, request: bytes, unhurried: bytes
) -> None:
    client = LoadClient("127.0.0.1", server.port, unhurried)
    await client.closed_loop(options.callers, 2.0)
    closed = await client.closed_loop(options.callers, options.seconds)
    client.close()
    capacity = len(closed.seconds(200)) / closed.taken_s
    print(f"{os.cpu_count()} cores, shared by server and client; {options.network}")
    p50, p99 = (_percentile(closed.seconds(200), share) for share in (0.5, 0.99))
    print(f"capacity: {capacity:.0f}/s; {options.callers} callers wait {p50} ms, p99 {p99} ms")
    print(f"deadline: {options.deadline_ms} ms; times in ms\n")
    print(
        "| load | sent/s | goodput/s | of capacity | accepted p50 | p99 | refused p50 | p99 |",
        end="",
    )
    print(" statuses | server MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for load in map(float, options.loads.split(",")):
        await asyncio.sleep(PAUSE_S)
        client = LoadClient("127.0.0.1", server.port, request)
        with _peak_memory(server) as peak:
            samples = await client.open_loop(load * capacity, options.seconds)
        client.close()
        print(_row(load, capacity, samples, options.deadline_ms / 1000, peak[0]), flush=True)


def _row(load: float, capacity: float, samples: Samples, deadline_s: float, peak: int) -> str:
    good = [seconds for seconds in samples.seconds(200) if seconds <= deadline_s]
    accepted, refused = samples.seconds(200), samples.seconds(503)
    statuses = Counter(sample.status for sample in samples.samples)
    goodput = len(good) / samples.taken_s
    cells = [
        f"{load:g}x",
        f"{len(samples.samples) / samples.taken_s:.0f}",
        f"{goodput:.0f}",
        f"{goodput / capacity:.0%}",
        *(_percentile(accepted, share) for share in (0.5, 0.99)),
        *(_percentile(refused, share) for share in (0.5, 0.99)),
        ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
        f"{peak / MIB:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _percentile(sorted_seconds: list[float], share: float) -> str:
    if not sorted_seconds:
        return "-"
    at = min(len(sorted_seconds) - 1, int(share * len(sorted_seconds)))
    return f"{sorted_seconds[at] * 1000:.0f}"


@contextlib.contextmanager
def _peak_memory(server: Served) -> Iterator[list[int]]:
    """Resident bytes of the server at most, in the one element of the list."""
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], server.resident_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
