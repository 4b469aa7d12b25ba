"""The dashboards as Grafana reads them: what their panels ask, with the variables put in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "manifests" / "dashboards"
EXAMPLE: Final[Mapping[str, str | list[str]]] = {
    "namespace": ["vision", "staging"],
    "service": ["demo", "team.a/demo"],
    "model_version": ".*",
    "other_version": "debug-1",
    "__rate_interval": "1m",
    "__range": "6h",
}
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|([a-zA-Z_]\w*))")
"""`$1`, of a replacement, is no variable, and stays."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression of a dashboard.

    Attributes:
        legend: with `{{label}}`; empty where there is none.
    """

    place: str
    expr: str
    legend: str = ""

    def example(self) -> str:
        return interpolated(self.expr, EXAMPLE)


@cache
def dashboards() -> dict[str, Any]:
    """By file name."""
    return {
        path.name: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))
    }


def rows() -> list[dict[str, Any]]:
    return [p for one in dashboards().values() for p in one["panels"] if p["type"] == "row"]


def panels() -> list[dict[str, Any]]:
    return [p for one in dashboards().values() for p in one["panels"] if p["type"] != "row"]


def of_panels() -> list[Asked]:
    return [
        Asked(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]


def of_annotations() -> list[Asked]:
    return [
        Asked(annotation["name"], annotation["expr"], annotation["titleFormat"])
        for one in dashboards().values()
        for annotation in one["annotations"]["list"]
    ]


def of_variables() -> list[Asked]:
    """The series that variables take the values of a label from."""
    return [
        Asked(f"${variable['name']}", label_values(variable["query"]["query"])[0])
        for one in dashboards().values()
        for variable in one["templating"]["list"]
        if variable["type"] == "query"
    ]


def all_asked() -> list[Asked]:
    return of_panels() + of_annotations() + of_variables()


def label_values(query: str) -> tuple[str, str]:
    """Series and label of `label_values(series, label)`."""
    series, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    return series, label


def interpolated(expr: str, values: Mapping[str, str | list[str]]) -> str:
    """With the variables put in, as Grafana's data source for Prometheus does.

    Args:
        values: a list is several chosen values; what is text stands as it is.

    Raises:
        KeyError: A variable has no value.
    """

    def value(found: re.Match[str]) -> str:
        chosen = values[found[1] or found[2]]
        if isinstance(chosen, str):
            return chosen
        # Twice escaped: once for the pattern, once for the string that it is written in.
        escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", one) for one in chosen]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value, expr)
