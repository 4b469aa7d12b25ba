"""Write manifests/dashboards from their description; with --check, fail when any of it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hack.dashboards.overview import OVERVIEW
from hack.dashboards.render import render

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "manifests" / "dashboards"


def files() -> dict[Path, str]:
    return {FOLDER / f"{one.uid}.json": render(one) for one in (OVERVIEW,)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    made = files()
    gone = [path for path in sorted(FOLDER.glob("*.json")) if path not in made]
    if not args.check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
        for path in gone:
            path.unlink()
        print(f"wrote {len(made)} dashboard")
        return 0
    stale = gone + [
        path for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text
    ]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale; run: make generate", file=sys.stderr)
    if not stale:
        print("the dashboards match their description")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
