"""Write docs/metrics.md from the definitions; with --check, fail when it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from predictor.telemetry.metrics import ALL, LABELS, Metric

TARGET = Path(__file__).parent.parent / "docs" / "metrics.md"

INTRODUCTION = """\
<!-- Made by `make generate` from predictor/telemetry/metrics.py; do not edit. -->

# Metrics

`GET /metrics` on port 8082 (`server.metrics_port`), in Prometheus' text format, or in OpenMetrics
for who asks for it by `Accept`. The port speaks plain HTTP, has nothing else and asks for no key:
let only your scrapers reach it (the chart's `networkPolicy.scrapers`). It is open before the model
is loaded and closes last. `server.metrics_enabled` switches it off.

A series appears with the first event that it counts. What is switched off (`tls`, `rate_limit`,
`audit`, API keys) has none. Besides these there are Prometheus' usual `process_*` and
`python_gc_*`. GPU figures come from the driver's own exporter (DCGM), which sees every pod.
"""


def render() -> str:
    rows = [f"| `{name}` | {values} |" for name, values in LABELS.items()]
    return "\n".join(
        [
            INTRODUCTION,
            *("| Metric | Kind | Labels | Why |", "|---|---|---|---|"),
            *map(_row, ALL),
            *("", "## Labels", "", "No label holds what a client sent.", ""),
            *("| Label | Values |", "|---|---|"),
            *rows,
            *("", "## Buckets", "", "Upper bounds; what is above the last is in `+Inf`.", ""),
            *("| Metric | Buckets |", "|---|---|"),
            *(_buckets(metric) for metric in ALL if metric.buckets),
            "",
        ]
    )


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.why} |"


def _buckets(metric: Metric) -> str:
    return f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = render()
    if not args.check:
        TARGET.write_text(text, encoding="utf-8")
        print("wrote docs/metrics.md")
        return 0
    if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        print("docs/metrics.md is stale; run: make generate", file=sys.stderr)
        return 1
    print("docs/metrics.md matches the metrics")
    return 0


if __name__ == "__main__":
    sys.exit(main())
