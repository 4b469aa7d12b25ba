"""Load a deployment of your own until its figures settle: `make load-test`.

The API key comes from --key-file or the variable API_KEY. Ends with 1 where a bound of --require is
broken, with 2 where the test could not take place.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from hack.load import heap
from hack.load.loops import ClosedLoop, Loop, OpenLoop
from hack.load.samples import Caller, Window, joined
from hack.load.server import BUNDLE
from hack.load_test.bounds import read_bounds
from hack.load_test.errors import LoadTestError
from hack.load_test.figures import Figures
from hack.load_test.stability import WINDOWS, stable
from hack.load_test.target import Request, Target, check, grpc, read_key, rest

_LATE_S: Final = 0.05
"""Above this the client itself was the bottleneck, and says so."""


@dataclass(frozen=True, slots=True)
class Found:
    figures: Figures
    stable: bool
    windows: int


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        bounds = read_bounds(options.require)
        targets = _targets(options)
        with heap.set_aside(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = {target.name: runner.run(_run(target, options)) for target in targets}
    except LoadTestError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    broken = []
    for name, one in found.items():
        print(_report(name, one))
        broken += [f"{name}: {why}" for bound in bounds if (why := bound.broken(one.figures))]
    if options.json:
        options.json.write_text(json.dumps(_document(found, broken), indent=2) + "\n")
    for why in broken:
        print(why, file=sys.stderr)
    return 1 if broken else 0


async def _run(target: Target, options: argparse.Namespace) -> Found:
    caller = target.open()
    try:
        await check(target, caller)
        print(f"{target.name}: warming up", file=sys.stderr, flush=True)
        loop = _loop(caller, options)
        loop.start()
        await loop.warm_up(options.warm_up)
        windows = await _windows(loop, options)
        await loop.stop()
    finally:
        await caller.close()
    settled = stable(windows)
    counted = windows[-WINDOWS:] if settled else windows
    return Found(Figures(joined(counted), _deadline_s(options)), settled, len(counted))


def _loop(caller: Caller, options: argparse.Namespace) -> Loop:
    if options.rate is None:
        return ClosedLoop(caller, options.callers)
    return OpenLoop(caller, options.rate, poisson=options.poisson)


async def _windows(loop: Loop, options: argparse.Namespace) -> list[Window]:
    windows: list[Window] = []
    while len(windows) < options.max_windows and not stable(windows):
        windows.append(await loop.window(options.window))
        figures = Figures(windows[-1], _deadline_s(options))
        place = f"window {len(windows)} of at most {options.max_windows}"
        print(f"  {place}: {figures.line()}", file=sys.stderr, flush=True)
    return windows


def _report(name: str, found: Found) -> str:
    window = found.figures.window
    lines = [f"{name}: {len(window.samples)} requests in {window.taken_s:.1f} s"]
    if not found.stable:
        lines.append(
            f"  never became stable in {found.windows} windows: give it more with --max-windows, "
            "or longer ones with --window"
        )
    if window.client_late_s > _LATE_S:
        lines.append(
            f"  this client sent up to {window.client_late_s * 1000:.0f} ms late, which counts: "
            "ask for a lower --rate, or use a machine with a free core"
        )
    return "\n".join([*lines, found.figures.table()])


def _document(found: dict[str, Found], broken: list[str]) -> dict[str, Any]:
    targets = {
        name: {**one.figures.as_json(), "stable": one.stable, "windows": one.windows}
        for name, one in found.items()
    }
    return {"targets": targets, "broken": broken}


def _deadline_s(options: argparse.Namespace) -> float | None:
    return options.deadline_ms / 1000 if options.deadline_ms else None


def _targets(options: argparse.Namespace) -> list[Target]:
    request = Request(
        model=options.model,
        picture=options.picture,
        api_key=read_key(options.key_file),
        deadline_s=_deadline_s(options),
        ca_file=options.ca_file,
        host=options.host,
    )
    found = [rest(options.url, request)] if options.url else []
    found += [grpc(options.grpc, request, options.channels)] if options.grpc else []
    if not found:
        raise LoadTestError("nothing to load: give --url, --grpc, or both, one after the other")
    return found


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.load_test", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", help="http(s)://host:port; a path after it is taken as it is")
    parser.add_argument("--grpc", help="host:port, or grpcs://host:port for TLS")
    parser.add_argument("--key-file", type=Path, help="holds the API key; else API_KEY does")
    parser.add_argument("--picture", type=Path, default=BUNDLE / "samples" / "photo-1.jpg")
    parser.add_argument("--model", default="realfake")
    parser.add_argument("--host", help="the name to ask for, through a gateway's address")
    parser.add_argument("--ca-file", help="PEM, instead of what this machine trusts")
    parser.add_argument("--callers", type=_count, default=100, help="in a closed loop")
    parser.add_argument("--rate", type=_positive, help="requests a second, in an open loop")
    parser.add_argument("--poisson", action="store_true", help="at random times, with --rate")
    parser.add_argument("--channels", type=_count, default=4, help="gRPC connections")
    parser.add_argument("--deadline-ms", type=_count, help="sent with each request")
    parser.add_argument("--warm-up", type=_positive, default=3.0, help="seconds, at least")
    parser.add_argument("--window", type=_positive, default=5.0, help="seconds")
    parser.add_argument("--max-windows", type=_count, default=10)
    parser.add_argument("--require", default="", help="p99<250ms,errors<0.1%%,goodput>100")
    parser.add_argument("--json", type=Path, help="a file to write the figures to as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
