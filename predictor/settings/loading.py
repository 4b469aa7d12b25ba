"""From sources to settings: merge, validate, and name everything that is wrong at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from predictor.errors import SettingsError
from predictor.settings.groups import Settings, contradictions
from predictor.settings.reference import Knob, knobs_of
from predictor.settings.sources import Given, gather


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each one that is not a default the place that set it."""

    settings: Settings
    sources: Mapping[str, str]


def load_settings(argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """Read, merge and check the settings.

    Args:
        argv: Settings flags only, `--server.http-port 9000` or `--server.http_port=9000`.
        environ: Stands in for `os.environ`.

    Raises:
        SettingsError: One line for each problem: the setting, where its value comes from and the
            fix. Never a value.
    """
    return resolve(argv, environ).settings


def resolve(
    argv: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    dotenv: Path | None = Path(".env"),
    serving: bool = True,
) -> Resolved:
    """Like `load_settings`, and say where each value comes from.

    Args:
        dotenv: The `.env` file, read when it exists.
        serving: Also check what only a server needs; scoring a folder needs no API keys.
    """
    found = gather(knobs(), argv, os.environ if environ is None else environ, dotenv)
    given = {name: value for name, value in found.values.items() if value.text is not None}
    settings, wrong = _validate(given)
    problems = [*found.problems, *wrong.values()]
    for first, second, fix in contradictions(settings, serving=serving):
        if wrong.keys().isdisjoint((first, second)):
            places = f"{first} ({_place(first, given)}) and {second} ({_place(second, given)})"
            problems.append(f"{places}: {fix}")
    if problems:
        raise SettingsError("\n  ".join(["these settings cannot be used:", *problems]))
    return Resolved(settings, {name: value.source for name, value in given.items()})


@cache
def knobs() -> Mapping[str, Knob]:
    """Every setting by its dotted name, in the order of the classes above."""
    return knobs_of(Settings.model_json_schema())


def effective(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings as plain JSON values. No setting holds a secret, only where secrets are."""
    dumped: dict[str, dict[str, Any]] = settings.model_dump(mode="json")
    return dumped


def _validate(given: Mapping[str, Given]) -> tuple[Settings, dict[str, str]]:
    """Build settings from what is valid, and name what is not."""
    wrong: dict[str, str] = {}
    try:
        return Settings.model_validate(_nested(given)), wrong
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            knob = knobs()[".".join(str(part) for part in detail["loc"][:2])]
            wrong[knob.name] = (
                f"{knob.name} ({given[knob.name].source}): must be {knob.accepts}; "
                f"correct it, or remove it for the default ({knob.default})"
            )
    usable = {name: value for name, value in given.items() if name not in wrong}
    return Settings.model_validate(_nested(usable)), wrong


def _nested(given: Mapping[str, Given]) -> dict[str, dict[str, str | None]]:
    nested: dict[str, dict[str, str | None]] = {}
    for name, value in given.items():
        group, _, key = name.partition(".")
        nested.setdefault(group, {})[key] = value.text
    return nested


def _place(name: str, given: Mapping[str, Given]) -> str:
    return given[name].source if name in given else "default"
