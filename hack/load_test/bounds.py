"""What a run must keep: `p99<250ms,errors<0.1%,goodput>100`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hack.load_test.errors import BadBound
from hack.load_test.figures import SHARES, Figures

_BOUND: Final = re.compile(r"\s*([a-z0-9.]+)\s*([<>])\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|%|/s)?\s*")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0}
_A_SECOND: Final = {"": 1.0, "/s": 1.0}
_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    **dict.fromkeys(SHARES, _SECONDS),
    **{"errors": {"%": 1e-2}, "throughput": _A_SECOND, "goodput": _A_SECOND},
}


@dataclass(frozen=True, slots=True)
class Bound:
    """Attributes: limit: seconds, a share, or answers a second."""

    text: str
    name: str
    below: bool
    limit: float

    def broken(self, figures: Figures) -> str | None:
        """What was measured instead; None where the bound is kept.

        A figure that there is none of, as no answer was good, breaks every bound on it.
        """
        value = figures.value(self.name)
        if value is not None and (value < self.limit if self.below else value > self.limit):
            return None
        return f"{self.text} is broken: {self.name} is {figures.shown(self.name)}"


def read_bounds(text: str) -> list[Bound]:
    """Raises: BadBound: with the names and units there are."""
    return [_bound(part) for part in text.split(",") if part.strip()]


def _bound(text: str) -> Bound:
    if match := _BOUND.fullmatch(text):
        name, sign, number, unit = match.groups(default="")
        scale = _UNITS.get(name, {}).get(unit)
        if scale is not None:
            return Bound(text.strip(), name, sign == "<", float(number) * scale)
    raise BadBound(
        f"--require: {text.strip()!r} is no bound; write a name, < or > and a number with its "
        "unit: p50, p90, p99, p99.9 or max in ms or s, errors in %, throughput or goodput"
    )
