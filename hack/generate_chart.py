"""Write what the chart is generated from; with --check, fail when any of it is stale.

The values schema and README from values.yaml, the settings the templates know from the settings
classes, copies of the files that a chart must carry itself, and the raw manifests.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hack.chart import manifests, readme, schema, values

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "realfake"
# Folders whose whole content is copied: source, target, and what belongs there.
COPIED = (
    (ROOT / "manifests" / "alerts", CHART / "files" / "alerts", "*.yaml"),
    (ROOT / "manifests" / "dashboards", CHART / "files" / "dashboards", "*.json"),
)
PHOTO = ROOT / "checkpoints" / "debug" / "samples" / "photo-1.jpg"


def chart_files() -> dict[Path, bytes]:
    """Everything the chart gets, by its place."""
    described = values.read(CHART / "values.yaml")
    defaults = json.dumps(schema.settings_defaults(), indent=2) + "\n"
    made = {
        CHART / "values.schema.json": schema.render(described).encode(),
        CHART / "README.md": readme.render(described).encode(),
        CHART / "files" / "settings.json": defaults.encode(),
        CHART / "files" / "photo.jpg": PHOTO.read_bytes(),
    }
    for source, target, pattern in COPIED:
        made |= {target / path.name: path.read_bytes() for path in sorted(source.glob(pattern))}
    return made


def stale_copies(made: dict[Path, bytes]) -> list[Path]:
    """Copies whose original is gone."""
    there = [path for _, target, pattern in COPIED for path in target.glob(pattern)]
    return sorted(path for path in there if path not in made)


def write(made: dict[Path, bytes], gone: list[Path]) -> None:
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for path in gone:
        path.unlink()


def stale(made: dict[Path, bytes], gone: list[Path]) -> list[Path]:
    return [
        path for path, content in made.items() if not path.is_file() or path.read_bytes() != content
    ] + gone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    made = chart_files()
    gone = stale_copies(made)
    if not args.check:
        # The manifests are rendered from the chart, so the chart comes first.
        write(made, gone)
        raw = manifests.render(CHART)
        write(raw, manifests.gone(raw))
        print(f"wrote {len(made) + len(raw)} files of the chart and its manifests")
        return 0
    found = stale(made, gone)
    if not found:
        raw = manifests.render(CHART)
        found = stale(raw, manifests.gone(raw))
    for path in found:
        print(f"{path.relative_to(ROOT)} is stale; run: make generate", file=sys.stderr)
    if not found:
        print("the chart and its manifests match what they are made from")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
