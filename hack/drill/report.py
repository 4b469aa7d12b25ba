"""What a drill prints."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any, Final

_MOST_ROWS: Final = 5
# The same in every row of a drill.
_COMMON: Final = frozenset({"namespace", "job", "track", "instance"})
LEFT_OUT: Final = ("request_id", "trace_id", "span_id")
"""Fields of log lines that tell one request from another: not what is looked for here."""
_WIDTH: Final = 110


def say(line: str = "", indent: int = 0) -> None:
    """Print at once: a drill is watched."""
    print(textwrap.indent(line, " " * indent), flush=True)


def paragraph(text: str, indent: int) -> None:
    say(textwrap.fill(text, _WIDTH - indent), indent)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """An instant query's answer, the value before what it is of."""
    lines = []
    for row in rows[:_MOST_ROWS]:
        labels = {name: value for name, value in row["metric"].items() if name not in _COMMON}
        series = labels.pop("__name__", "")
        inside = ", ".join(f'{name}="{value}"' for name, value in labels.items())
        lines.append(f"{float(row['value'][1]):>12.4g}  {series}{{{inside}}}")
    if len(rows) > _MOST_ROWS:
        lines.append(f"{'…':>12}  {len(rows) - _MOST_ROWS} more")
    return lines


def log_line(line: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in line.items() if name not in LEFT_OUT})
