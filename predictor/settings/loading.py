"""From sources to settings: merge, validate, and name everything that is wrong at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from predictor.errors import SettingsError
from predictor.settings.contradictions import contradictions
from predictor.settings.reference import Knob, knobs_of
from predictor.settings.root import Settings
from predictor.settings.sources import Report, read_sources


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
    variables = os.environ if environ is None else environ
    report = Report(knobs())
    settings, wrong = _build(read_sources(Settings, report, argv, variables, dotenv))
    problems = list(report.problems)
    for name in wrong:
        knob = knobs()[name]
        problems.append(
            f"{name} ({report.places[name]}): must be {knob.accepts}; "
            f"correct it, or remove it for the default ({knob.default})"
        )
    for first, second, fix in contradictions(settings, serving=serving):
        if wrong.isdisjoint((first, second)):
            pair = [f"{name} ({report.places.get(name, 'default')})" for name in (first, second)]
            problems.append(f"{' and '.join(pair)}: {fix}")
    if problems:
        raise SettingsError("\n  ".join(["these settings cannot be used:", *problems]))
    return Resolved(settings, report.places)


@cache
def knobs() -> Mapping[str, Knob]:
    """Every setting by its dotted name, in the order of the classes above."""
    return knobs_of(Settings.model_json_schema())


def effective(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings as plain JSON values. No setting holds a secret, only where secrets are."""
    dumped: dict[str, dict[str, Any]] = settings.model_dump(mode="json")
    return dumped


class _Merged(PydanticBaseSettingsSource):
    """Put last, it gives nothing itself and sees what all sources before it gave together."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {}


def _build(sources: tuple[PydanticBaseSettingsSource, ...]) -> tuple[Settings, Set[str]]:
    """Build settings from the values that are valid, and name those that are not."""
    merged = _Merged(Settings)
    try:
        return Settings(_build_sources=((*sources, merged), {})), frozenset()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    # A dictionary keeps the order of the settings.
    wrong = dict.fromkeys(".".join(str(part) for part in detail["loc"][:2]) for detail in details)
    usable = {
        group: {key: value for key, value in members.items() if f"{group}.{key}" not in wrong}
        for group, members in merged.current_state.items()
    }
    return Settings.model_validate(usable), wrong.keys()
