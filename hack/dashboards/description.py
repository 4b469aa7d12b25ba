"""What a dashboard is made of. What a panel asks and says is here, and no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GRID_WIDTH = 24
"""Columns that Grafana gives a dashboard."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression.

    Attributes:
        legend: what a line is called, with `{{label}}`.
        exemplars: also show single requests that were counted there.
        absent: why nothing can come back in tests/server/test_dashboards.py, which wants data
            from every query but these, and nothing from these.
    """

    expr: str
    legend: str = ""
    absent: str = ""
    exemplars: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One question.

    Attributes:
        reads: how to read it, in one or two sentences.
        unit: Grafana's name of it.
        runbooks: alerts whose pages it links to.
        empty: what is shown where there is nothing.
        limits: thresholds, each with the colour that begins there; lines are drawn at them.
        colors: of series, by what they are called.
    """

    title: str
    reads: str
    queries: tuple[Query, ...]
    unit: str = "short"
    decimals: int | None = None
    runbooks: tuple[str, ...] = ()
    empty: str = "nothing yet"
    limits: Mapping[float, str] = field(default_factory=dict)
    base_color: str = "green"
    colors: Mapping[str, str] = field(default_factory=dict)
    width: int = 8
    height: int = 8


@dataclass(frozen=True, kw_only=True)
class Lines(Panel):
    """Over time."""

    stacked: Literal["none", "normal", "percent"] = "none"
    least: float | None = 0
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Number(Panel):
    """What holds for the whole time that is shown, or now."""

    width: int = 4
    height: int = 4


@dataclass(frozen=True, kw_only=True)
class Heatmap(Panel):
    """Buckets of a histogram over time; `unit` is of the buckets."""


@dataclass(frozen=True, kw_only=True)
class Table(Panel):
    """One row for each series, now.

    Attributes:
        columns: labels to show, in order, with what they are called.
        value: what the column of values is called; empty hides it.
        links: label to address, where `${__value.raw}` is the cell.
    """

    columns: Mapping[str, str]
    value: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bars(Panel):
    """A group of bars for each value of a label, with a bar for each query, by its legend."""

    label: str


@dataclass(frozen=True, slots=True)
class Row:
    question: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks on every panel over time, where the expression has a value."""

    name: str
    query: Query
    title: str
    color: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...]
