"""Horizontal bars as SVG. A plotting library would be more to install, and would draw the same
numbers as other bytes after each upgrade: `make verify` compares bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 820
_LABELS: Final = 330
_ROW: Final = 22
_TOP: Final = 34
_SPACE: Final = _WIDTH - _LABELS - 80
"""For the longest bar; its number stands behind it."""


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    ours: bool


def bars(title: str, unit: str, rows: Sequence[Bar], mark: tuple[str, float] | None = None) -> str:
    """Args: mark: a line across all bars, and what it is called."""
    most = max([row.value for row in rows] + ([mark[1]] if mark else [])) or 1.0
    height = _TOP + _ROW * len(rows) + (24 if mark else 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for number, row in enumerate(rows):
        parts += _bar(row, _TOP + number * _ROW, row.value / most * _SPACE, unit)
    if mark:
        parts += _mark(mark, _LABELS + mark[1] / most * _SPACE, height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: Bar, y: int, length: float, unit: str) -> list[str]:
    colour = "#1a7f37" if row.ours else "#8c959f"
    middle = y + _ROW * 0.65
    shown = f"{row.value:.0f}" if row.value >= 10 else f"{row.value:.1f}"
    return [
        f'<text x="{_LABELS - 6}" y="{middle:.1f}" text-anchor="end">{escape(row.label)}</text>',
        f'<rect x="{_LABELS}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 6}" '
        f'fill="{colour}"/>',
        f'<text x="{_LABELS + length + 5:.1f}" y="{middle:.1f}">{shown} {escape(unit)}</text>',
    ]


def _mark(mark: tuple[str, float], x: float, height: int) -> list[str]:
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - 18}" stroke="#cf222e" '
        'stroke-dasharray="4 3"/>',
        f'<text x="{x:.1f}" y="{height - 5}" text-anchor="middle" fill="#cf222e">'
        f"{escape(mark[0])}</text>",
    ]
