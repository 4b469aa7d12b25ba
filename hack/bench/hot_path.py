"""What a request costs beside decoding and the forward: CPU of the event loop's thread, by route.

`python -m hack.bench.hot_path` serves the debug bundle and asks it for one 100 KB picture at a
time, and by 16 callers at once. Decoding and forwards are in processes of their own, and not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Callable
from typing import Final

import uvloop

from hack.bench import bodies
from hack.load.grpc_caller import GrpcCaller, infer
from hack.load.http_caller import HttpCaller
from hack.load.loops import ClosedLoop
from hack.load.pictures import photo
from hack.load.samples import GOOD, Caller
from hack.load.server import Served, serving
from hack.load.threads import cpu_ns

PATH: Final = "/v2/models/realfake/infer"
ROUNDS: Final = 5
CALLERS: Final = (1, 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of five windows")
    options = parser.parse_args()
    with serving() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(server, options.seconds))
    return 0


def _routes(server: Served) -> dict[str, Callable[[], Caller]]:
    picture = photo(640, 480, 90)
    key = {"X-API-Key": server.api_key}
    url = f"http://127.0.0.1:{server.port}"
    return {
        "raw body": lambda: HttpCaller(url, bodies.as_is(PATH, picture, key)),
        "gRPC": lambda: GrpcCaller(
            f"127.0.0.1:{server.grpc_port}", infer("realfake", picture), api_key=server.api_key
        ),
        "V2 JSON, base64": lambda: HttpCaller(url, bodies.v2(PATH, picture, key)),
    }


async def _measure(server: Served, seconds: float) -> None:
    print("| route | callers | event loop, ms a request | other threads | p50, ms |")
    print("|---|---|---|---|---|")
    for name, connect in _routes(server).items():
        for callers in CALLERS:
            caller = connect()
            loop = ClosedLoop(caller, callers)
            loop.start()
            await loop.warm_up(1.0)
            rows = [await _window(server.process.pid, loop, seconds) for _ in range(ROUNDS)]
            await loop.stop()
            await caller.close()
            event_loop, others, wait = map(statistics.median, zip(*rows, strict=True))
            print(
                f"| {name} | {callers} | {event_loop:.2f} | {others:.2f} | {wait:.1f} |", flush=True
            )


async def _window(pid: int, loop: ClosedLoop, seconds: float) -> tuple[float, float, float]:
    """Milliseconds of CPU for each answer, of the first thread and of the others; median wait."""
    before = cpu_ns(pid)
    window = await loop.window(seconds)
    after = cpu_ns(pid)
    count = len(window.samples)
    if not count or window.codes.keys() - set(GOOD):
        raise SystemExit(f"not all answers were good: {dict(window.codes)}")
    spent = {thread: ns - before.get(thread, 0) for thread, ns in after.items()}
    event_loop = spent.pop(pid)
    return (
        event_loop / count / 1e6,
        sum(spent.values()) / count / 1e6,
        statistics.median(window.seconds()) * 1000,
    )


if __name__ == "__main__":
    sys.exit(main())
