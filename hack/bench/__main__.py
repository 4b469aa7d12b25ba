"""This server and its peers on the same pictures and weights, in turns: `make bench`.

Each round measures, network by network, what the machine does without a server, and then one server
after the other, so that whatever else the machine does meets all alike. Weights are random: they
cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from hack.bench import results
from hack.bench.machine import describe
from hack.bench.measuring import Times
from hack.bench.report import write
from hack.bench.rounds import Plan, Rounds
from hack.load.server import ROOT

PARTIAL: Final = ROOT / ".run" / "bench" / "benchmarks.json"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    document = options.output / "benchmarks.json"
    if options.report_only:
        return 0 if write(results.read(document), options.output, check=False) else 1
    if options.check:
        return _check(document, options.output)
    _be_stoppable()
    plan = Plan(
        networks=options.networks.split(","),
        engines=options.engines.split(","),
        only=set(options.only.split(",")) if options.only else None,
        clients=[int(count) for count in options.clients.split(",")],
        rounds=options.rounds,
        times=Times(options.seconds, options.warm_up),
        deadline_s=options.deadline_ms / 1000,
        cpus=options.cpus or ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    )
    found = results.Results(describe(), {"command": _command(), **plan.shown()})
    PARTIAL.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        try:
            Rounds(plan, found, Path(directory), PARTIAL).run()
        except KeyboardInterrupt:
            print(
                f"\nstopped; what was measured is in {PARTIAL.relative_to(ROOT)}", file=sys.stderr
            )
            return 130
    found.write(document)
    write(found, options.output, check=False)
    print(f"wrote {document} and benchmarks.md beside it")
    return 0


def _be_stoppable() -> None:
    """End as on Ctrl-C also when told to by SIGTERM, and where a shell's background ignores both.

    By way of SIGINT, which asyncio ends its loop on; an exception raised in a callback, uvloop
    would only print.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _command() -> str:
    """What to type to measure the same again; where it was written to is nobody's business."""
    given = iter(sys.argv[1:])
    kept = []
    for word in given:
        if word == "--output":
            next(given, None)
        elif not word.startswith("--output="):
            kept.append(word)
    return shlex.join(["make", "bench", *([f"ARGS={shlex.join(kept)}"] if kept else [])])


def _check(document: Path, output: Path) -> int:
    if not document.is_file():
        print("no benchmarks to check")
        return 0
    if write(results.read(document), output, check=True):
        print("docs/benchmarks.md is what docs/benchmarks.json says")
        return 0
    print("docs/benchmarks.md is stale; run: make bench ARGS=--report-only", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.bench", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--networks", default="debug,mobilenetv3_small_100,resnet18")
    parser.add_argument("--engines", default="torch,onnx", help="what the peers compute with")
    parser.add_argument("--only", help="some servers, by the names of hack/bench/peers")
    parser.add_argument("--clients", default="1,8,32,100")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each window")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before each, at least")
    parser.add_argument("--deadline-ms", type=int, default=250)
    parser.add_argument("--cpus", help="of servers, as taskset has them; all by default")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    parser.add_argument("--report-only", action="store_true", help="render benchmarks.json again")
    parser.add_argument("--check", action="store_true", help="fail when benchmarks.md is stale")
    return parser


if __name__ == "__main__":
    sys.exit(main())
