"""What an image costs: its size, its start and its memory: `python -m hack.image.measure IMAGE…`.

Give it images with the debug bundle. Each is started several times, confined as `make image-test`
does it; medians. Memory is what is resident in all its processes, with shared pages shared out
(PSS). RUN_ARGS in the environment adds what podman or docker needs on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from datetime import datetime
from typing import Any, Final

from hack.image.engine import CONFINED, engine

MIB: Final = 1024 * 1024
LIMIT_S: Final = 300.0
RESIDENT: Final = """
import pathlib
def kib(process):
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
mine = pathlib.Path("/proc/self").resolve()
print(sum(kib(one) for one in pathlib.Path("/proc").glob("[0-9]*") if one != mine))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    program = engine()
    if program is None:
        print("neither podman nor docker runs here", file=sys.stderr)
        return 1
    rounds: dict[str, list[tuple[float, float]]] = {image: [] for image in options.images}
    for _ in range(options.rounds):  # in turns, so that whatever else runs here meets all alike
        for image, results in rounds.items():
            results.append(measure(program, image))
    print("| Image | Size, MB | Ready in, s | Resident, MiB |\n|---|---|---|---|")
    for image, results in rounds.items():
        size = inspect(program, image)["Size"] / 1e6
        seconds, resident = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"| {image} | {size:.0f} | {seconds:.1f} | {resident:.0f} |")
    return 0


def measure(program: str, image: str) -> tuple[float, float]:
    """Seconds from the start of the container to its line `ready`, and MiB resident then."""
    container = call(
        *(program, "run", "--detach", *shlex.split(os.environ.get("RUN_ARGS", "")), *CONFINED),
        *("--user", "123456:123456", "--env", "REALFAKE_AUTH__MODE=none", image),
    ).splitlines()[-1]
    try:
        ready = wait_ready(program, container)
        began = when(inspect(program, container)["State"]["StartedAt"])
        resident = int(call(program, "exec", container, "python", "-c", RESIDENT))
        return (ready - began).total_seconds(), resident * 1024 / MIB
    finally:
        call(program, "rm", "--force", container)


def wait_ready(program: str, container: str) -> datetime:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for line in call(program, "logs", container).splitlines():
            if '"message":"ready"' in line:
                return when(json.loads(line)["timestamp"])
        time.sleep(0.2)
    raise SystemExit(f"not ready after {LIMIT_S:g} s: {call(program, 'logs', container)}")


def when(text: str) -> datetime:
    """A timestamp of the log, or of the engine, which has nanoseconds."""
    head, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return datetime.fromisoformat(f"{head}.{digits[:6]}{rest[len(digits) :]}")


def inspect(program: str, name: str) -> dict[str, Any]:
    described: list[dict[str, Any]] = json.loads(call(program, "inspect", name))
    return described[0]


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
