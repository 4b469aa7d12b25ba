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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from hack.load import heap
from hack.load.bundles import bundle_of
from hack.load.http_caller import HttpCaller, post
from hack.load.loops import ClosedLoop, Loop, OpenLoop
from hack.load.process_tree import peak_of
from hack.load.samples import Window, shown_ms
from hack.load.server import BUNDLE, Served, serving
from hack.load.threads import cpu_ns

PATH = "/v2/models/realfake/infer"
MIB = 1024 * 1024
PAUSE_S = 2.0
_SAMPLE_S = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="debug", help="the debug bundle, or a name of timm's")
    parser.add_argument("--picture", type=Path, default=BUNDLE / "samples" / "photo-1.jpg")
    parser.add_argument("--deadline-ms", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each load")
    parser.add_argument("--callers", type=int, default=16, help="of the closed loop")
    parser.add_argument("--loads", default="1,2,5,10", help="times the capacity")
    parser.add_argument(
        "--apart", action="store_true", help="server and client on cores of their own"
    )
    options, settings = parser.parse_known_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.apart and len(cores) < 2:
        parser.error("--apart wants two cores or more: one for the server, one for this client")
    own = cores[: len(cores) // 2] if options.apart else []
    with (
        tempfile.TemporaryDirectory() as directory,
        _served(bundle_of(options.network, Path(directory)), settings, own) as server,
    ):
        headers = {"X-API-Key": server.api_key, "Content-Type": "image/jpeg"}
        deadline = {"X-Request-Timeout-Ms": str(options.deadline_ms)}
        picture = options.picture.read_bytes()
        unhurried = post(PATH, picture, headers)
        request = post(PATH, picture, headers | deadline)
        with heap.set_aside(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(options, server, request, unhurried))
    return 0


@contextlib.contextmanager
def _served(bundle: Path, settings: Sequence[str], own: Sequence[int]) -> Iterator[Served]:
    """Args: own: cores of the server, which this process leaves to it; none for sharing all."""
    others = os.sched_getaffinity(0) - set(own)
    if own:
        os.sched_setaffinity(0, own)  # inherited
    with serving(bundle, settings) as server:
        os.sched_setaffinity(0, others)
        yield server


async def _measure(
    options: argparse.Namespace, server: Served, request: bytes, unhurried: bytes
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    caller = HttpCaller(url, unhurried)
    closed = await _window(ClosedLoop(caller, options.callers), options.seconds, warm_up_s=2.0)
    await caller.close()
    capacity = closed.throughput
    cores = len(os.sched_getaffinity(server.process.pid))
    whose = "of the server's own" if options.apart else "shared by server and client"
    print(f"cores: {cores}, {whose}; {options.network}")
    p50, p99 = (shown_ms(closed.seconds(), share) for share in (0.5, 0.99))
    print(f"capacity: {capacity:.0f}/s; {options.callers} callers wait {p50} ms, p99 {p99} ms")
    print(f"deadline: {options.deadline_ms} ms; times in ms\n")
    print(
        "| load | sent/s | goodput/s | of capacity | accepted p50 | p99 | refused p50 | p99 |",
        end="",
    )
    print(" statuses | server MiB | event loop, of a core |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for load in map(float, options.loads.split(",")):
        await asyncio.sleep(PAUSE_S)
        caller = HttpCaller(url, request)
        began, busy_ns = time.monotonic(), cpu_ns(server.process.pid)[server.process.pid]
        with peak_of(server.resident_bytes, _SAMPLE_S) as peak:
            window = await _window(OpenLoop(caller, load * capacity), options.seconds)
        busy_ns = cpu_ns(server.process.pid)[server.process.pid] - busy_ns
        busy = busy_ns / 1e9 / (time.monotonic() - began)
        await caller.close()
        row = _row(load, capacity, window, options.deadline_ms / 1000, peak[0])
        print(f"{row} {busy:.0%} |", flush=True)


async def _window(loop: Loop, seconds: float, warm_up_s: float = 0.0) -> Window:
    loop.start()
    if warm_up_s:
        await loop.warm_up(warm_up_s)
    window = await loop.window(seconds)
    await loop.stop()
    return window


def _row(load: float, capacity: float, window: Window, deadline_s: float, peak: int) -> str:
    accepted, refused = window.seconds(), window.seconds("503")
    goodput = window.goodput(deadline_s)
    cells = [
        f"{load:g}x",
        f"{len(window.samples) / window.taken_s:.0f}",
        f"{goodput:.0f}",
        f"{goodput / capacity:.0%}",
        *(shown_ms(accepted, share) for share in (0.5, 0.99)),
        *(shown_ms(refused, share) for share in (0.5, 0.99)),
        ", ".join(f"{code}: {count}" for code, count in sorted(window.codes.items())),
        f"{peak / MIB:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
