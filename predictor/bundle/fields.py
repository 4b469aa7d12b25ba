"""Typed access to a JSON file that somebody else wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictor.errors import BundleError


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object; every complaint names the file and the field.

    Attributes:
        place: `config.json` or `config.json: pretrained_cfg`.
    """

    values: Mapping[str, Any]
    place: str

    @classmethod
    def read(cls, path: Path) -> Fields:
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            raise BundleError(f"{path.name}: is not readable as JSON") from None
        if not isinstance(values, dict):
            raise BundleError(f"{path.name}: must hold a JSON object")
        return cls(values, path.name)

    def wrong(self, name: str, problem: str) -> BundleError:
        return BundleError(f"{self.place}: {name}: {problem}")

    def mapping(self, name: str, default: Mapping[str, Any]) -> Fields:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, Mapping):
            raise self.wrong(name, "must be an object")
        return Fields(value, f"{self.place}: {name}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "must be a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name)
        if isinstance(value, Mapping):  # timm also writes labels as {"0": name}
            value = [value.get(str(index)) for index in range(len(value))]
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.wrong(name, "must be a list of strings")
        return tuple(value)

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name, default)
        if name in self.values and not _finite(value):
            raise self.wrong(name, "must be a finite number")
        return float(value)

    def numbers(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        value = self.values.get(name, default)
        if not isinstance(value, list | tuple) or not all(_finite(entry) for entry in value):
            raise self.wrong(name, "must be a list of finite numbers")
        return tuple(float(entry) for entry in value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
