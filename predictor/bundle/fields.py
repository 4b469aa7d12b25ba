"""Typed access to a JSON file that somebody else wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Never

from predictor.errors import BundleError

DEEPEST: Final = 32


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object; every complaint names the file and the field.

    A field that is null counts as not there, as it does for timm.

    Attributes:
        place: `config.json` or `config.json: pretrained_cfg`.
    """

    values: Mapping[str, Any]
    place: str

    @classmethod
    def read(cls, path: Path) -> Fields:
        try:
            values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        except OSError as error:
            raise BundleError(f"{path.name}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise BundleError(f"{path.name}: is not readable as JSON") from None
        if not isinstance(values, dict):
            raise BundleError(f"{path.name}: must hold a JSON object")
        if _deeper_than(DEEPEST, values):
            raise BundleError(f"{path.name}: is nested more than {DEEPEST} deep")
        return cls(values, path.name)

    def wrong(self, name: str, problem: str) -> BundleError:
        return BundleError(f"{self.place}: {name}: {problem}")

    def mapping(self, name: str, default: Mapping[str, Any]) -> Fields:
        value = self._get(name, default)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "must be an object")
        return Fields(value, f"{self.place}: {name}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not _is_text(value):
            raise self.wrong(name, "must be a string of printable characters")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._get(name, None)
        if isinstance(value, Mapping):  # timm also writes labels as {"0": name}
            value = [value.get(str(index)) for index in range(len(value))]
        if not isinstance(value, list) or not all(map(_is_text, value)):
            raise self.wrong(name, "must be a list of strings of printable characters")
        return tuple(value)

    def number(self, name: str, default: float) -> float:
        value = self._get(name, None)
        if value is None:
            return default
        if not _finite(value):
            raise self.wrong(name, "must be a finite number")
        return float(value)

    def numbers(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or not all(map(_finite, value)):
            raise self.wrong(name, "must be a list of finite numbers")
        return tuple(map(float, value))

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value


def _is_text(value: Any) -> bool:
    """Half a surrogate pair, which JSON can hold, would fail in every answer that names it."""
    return isinstance(value, str) and value != "" and value.isprintable()


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # math.isfinite raises on large integers


def _deeper_than(levels: int, value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return False
    return levels == 0 or any(_deeper_than(levels - 1, entry) for entry in inside)


def _refuse(constant: str) -> Never:
    """NaN and Infinity are not JSON."""
    raise ValueError(constant)
