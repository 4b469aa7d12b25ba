"""Break a service of your own in three ways, and watch alert, runbook and repair: `make drill`.

Real servers of the debug bundle, a real Prometheus with the rules of manifests/alerts, and faults
done from outside. The rules run on a faster clock, as it says; nothing else about them changes.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import yaml

from hack.drill.drill import Drill, DrillFailed
from hack.drill.faults import faults
from hack.drill.installation import JOB, NAMESPACE, Installation
from hack.drill.report import paragraph, say
from hack.drill.rules import faster, faster_rules
from hack.prometheus import MISSING, Prometheus, installed

TIMES: Final = 60
# One decoder, so that a machine with a second core can still watch; few seconds to wait for one.
SETTINGS: Final = ("--model.device", "cpu", "--decoding.workers", "1")
SCRAPE: Final = "500ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = {fault.name: fault for fault in faults()}
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(known)}")
    parser.add_argument(
        "--times", type=int, default=TIMES, help=f"as fast as the rules say (default {TIMES})"
    )
    options = parser.parse_args()
    chosen = options.faults or list(known)
    if unknown := set(chosen) - known.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if not installed():
        print(MISSING, file=sys.stderr)
        return 2
    # Also where a shell started it in the background, and SIGINT is ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
            drill = _prepare(Path(directory), options.times, stack)
            for name in chosen:
                drill.run(known[name])
    except DrillFailed as failed:
        print(f"\nthe drill failed: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    say(f"\n{len(chosen)} faults, seen and mended in {time.monotonic() - began:.0f} s")
    return 0


def _prepare(directory: Path, times: int, stack: contextlib.ExitStack) -> Drill:
    targets = directory / "targets.json"
    targets.write_text("[]")
    prometheus = Prometheus(
        directory,
        configuration(directory, targets, times),
        ("--log.level", "warn", "--query.lookback-delta", faster("5m", times)),
    )
    stack.callback(prometheus.stop)
    installation = Installation(directory, targets, prometheus, SETTINGS)
    stack.callback(installation.stop)
    # What is added last is called first: a second Ctrl-C would leave processes behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        stack.callback(signal.signal, number, signal.SIG_IGN)
    pod = installation.add()
    say(f"{pod.name}: http://127.0.0.1:{pod.port}, Prometheus: {prometheus.url}")
    paragraph(
        f"Every window, offset and `for` of the rules, and of what the runbooks ask, is divided by "
        f"{times}: a minute takes {60 / times:.2g} s. Expressions and thresholds are as they are. "
        f"Labels: namespace {NAMESPACE}, job {JOB}.",
        0,
    )
    return Drill(installation, prometheus, times)


def configuration(directory: Path, targets: Path, times: int) -> dict[str, Any]:
    """What `prometheus.yml` holds: the rules on their faster clock, and who is in `targets`."""
    rules = directory / "rules.yml"
    rules.write_text(yaml.safe_dump(faster_rules(times)))
    return {
        "global": {
            "scrape_interval": SCRAPE,
            "scrape_timeout": SCRAPE,
            "evaluation_interval": SCRAPE,
        },
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": "drill", "file_sd_configs": [{"files": [str(targets)]}]},
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
