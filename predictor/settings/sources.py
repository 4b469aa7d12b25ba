"""Where a setting's value comes from: command line, environment, `.env`, YAML, first wins.

These are sources of pydantic-settings made strict: each knows every name it may give, and reports
what it cannot use instead of passing over it. Values are never part of a report: a key pasted into
the wrong variable must not end in a log.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv import dotenv_values
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from predictor.settings.reference import ENV_PREFIX, Knob

CONFIG_FILE_ENV: Final = "REALFAKE_CONFIG_FILE"

_FLAG: Final = re.compile(r"--(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)+)(?:=(?P<text>.*))?", re.DOTALL)
# Kubernetes describes a Service named `realfake…` to every pod beside it in variables like these.
_SERVICE_LINK: Final = re.compile(
    r"REALFAKE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_SERVICE_LINK_URL: Final = re.compile(r"(?:tcp|udp|sctp)://")


@dataclass(slots=True)
class Report:
    """What reading the sources told.

    Attributes:
        knobs: The settings that exist, by dotted name.
        places: The first place that gives a value, by the setting's dotted name.
        problems: What cannot be used, one line each.
    """

    knobs: Mapping[str, Knob]
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def found(self, name: str, value: Any, place: str) -> bool:
        """Note a value. False when it is an empty text, which is nobody's intention."""
        if isinstance(value, str) and not value.strip():
            self.problems.append(f"{name} ({place}): is empty; give a value or remove it")
            return False
        self.places.setdefault(name, place)
        return True

    def unknown(self, name: str, place: str, known: Iterable[str], what: str = "setting") -> None:
        folded = {name.lower(): name for name in known}
        near = difflib.get_close_matches(name.lower(), list(folded), n=2, cutoff=0.7)
        fix = "see docs/settings.md for the names, and remove it"
        if near:
            fix = "did you mean " + " or ".join(folded[name] for name in near) + "?"
        self.problems.append(f"{name} ({place}): no such {what}; {fix}")


def read_sources(
    settings_cls: type[BaseSettings],
    report: Report,
    argv: Sequence[str],
    environ: Mapping[str, str],
    dotenv: Path | None,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Read every source, in order of precedence, and report what is wrong instead of stopping."""
    sources: list[PydanticBaseSettingsSource] = [
        CommandLine(settings_cls, report, argv),
        Variables(settings_cls, report, environ, "environment variable"),
    ]
    file_variables: Mapping[str, str] = {}
    if dotenv is not None and dotenv.is_file():
        file_variables = _read_dotenv(report, dotenv)
        sources.append(Variables(settings_cls, report, file_variables, f"{dotenv.name} file,"))
    config = environ.get(CONFIG_FILE_ENV) or file_variables.get(CONFIG_FILE_ENV)
    if config:
        sources.append(YamlFile(settings_cls, report, Path(config)))
    return tuple(sources)


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate settings flags (`--server.http-port 9000`) from a command's own arguments."""
    flags: list[str] = []
    rest: list[str] = []
    for match, tokens in _flags(argv):
        (rest if match is None else flags).extend(tokens)
    return flags, rest


def _flags(argv: Sequence[str]) -> Iterator[tuple[re.Match[str] | None, list[str]]]:
    """Each flag with its tokens, value included; without a match, a token that is no flag."""
    tokens = iter(argv)
    for token in tokens:
        match = _FLAG.fullmatch(token)
        needs_value = match is not None and match["text"] is None
        yield match, [token, *islice(tokens, 1 if needs_value else 0)]


class CommandLine(EnvSettingsSource):
    """Flags such as `--server.http-port 9000`.

    Not a CliSettingsSource: that one ends at the first mistake, with the value in its message, and
    reads the text `null` as None.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], report: Report, argv: Sequence[str]
    ) -> None:
        super().__init__(settings_cls, env_prefix="", env_nested_delimiter=".")
        # Within one command line the last flag wins, as everywhere else.
        self.env_vars = {
            name: text
            for name, text in dict(_flag_texts(report, argv)).items()
            if report.found(name, text, f"command line {report.knobs[name].flag}")
        }


def _flag_texts(report: Report, argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for match, tokens in _flags(argv):
        if match is None:
            report.problems.append(
                "command line: an argument is no setting; write settings as --group.name VALUE"
            )
            continue
        name = match["name"].replace("-", "_")
        if name not in report.knobs:
            known = [knob.flag for knob in report.knobs.values()]
            report.unknown("--" + match["name"], "command line", known)
        elif match["text"] is not None:
            yield name, match["text"]
        elif len(tokens) > 1:
            yield name, tokens[1]
        else:
            flag = report.knobs[name].flag
            report.problems.append(f"{name} (command line): {flag} needs a value after it")


class Variables(EnvSettingsSource):
    """Variables such as `REALFAKE_SERVER__HTTP_PORT`, of the environment or of a `.env` file."""

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        report: Report,
        variables: Mapping[str, str],
        place: str,
    ) -> None:
        super().__init__(settings_cls)
        names = {knob.env: knob.name for knob in report.knobs.values()}
        texts: dict[str, str | None] = {}
        for variable, text in variables.items():
            if not variable.upper().startswith(ENV_PREFIX) or variable == CONFIG_FILE_ENV:
                continue
            source = f"{place} {variable}"
            if variable not in names:
                if not _is_service_link(variable, text):
                    report.unknown(variable, source, [*names, CONFIG_FILE_ENV])
            elif report.found(names[variable], text, source):
                texts[variable.lower()] = text
        self.env_vars = texts


def _is_service_link(variable: str, text: str) -> bool:
    if "__" in variable:
        return False
    if variable.endswith("_PORT") and _SERVICE_LINK_URL.match(text):
        return True
    return _SERVICE_LINK.fullmatch(variable) is not None


def _read_dotenv(report: Report, path: Path) -> Mapping[str, str]:
    # Not a DotEnvSettingsSource: that one expands `${…}` in values and forgives a name's case.
    try:
        parsed = dotenv_values(path, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        report.problems.append(f"{path.name} file: cannot be read: {_reason(error)}; correct it")
        return {}
    return {name: text or "" for name, text in parsed.items()}


class YamlFile(InitSettingsSource):
    """The file that REALFAKE_CONFIG_FILE names.

    Not a YamlConfigSettingsSource: that one takes a missing file for an empty one.
    """

    def __init__(self, settings_cls: type[BaseSettings], report: Report, path: Path) -> None:
        place = f"YAML file {path}"
        groups: dict[str, dict[str, Any]] = {}
        for name, value in _leaves(report, _read_yaml(report, path), place):
            # An explicit null leaves the setting to its default.
            if value is not None and report.found(name, value, place):
                group, _, key = name.partition(".")
                groups.setdefault(group, {})[key] = value
        super().__init__(settings_cls, groups)


def _read_yaml(report: Report, path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        report.problems.append(
            f"{CONFIG_FILE_ENV}: cannot read {path}: {_reason(error)}; mount it or unset it"
        )
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        report.problems.append(f"YAML file {path}: not valid YAML{line}")
    return None


def _reason(error: OSError | UnicodeDecodeError) -> str | None:
    return error.strerror if isinstance(error, OSError) else "not UTF-8 text"


def _leaves(report: Report, content: Any, place: str) -> Iterator[tuple[str, Any]]:
    if content is None:
        return
    groups = sorted({name.partition(".")[0] for name in report.knobs})
    if not isinstance(content, dict):
        expected = f"groups ({', '.join(groups)}), each with settings"
        report.problems.append(f"{place}: must hold {expected}")
        return
    for group, members in content.items():
        if group not in groups:
            report.unknown(str(group), place, groups, "group of settings")
        elif members is not None and not isinstance(members, dict):
            report.problems.append(
                f"{group} ({place}): must be a group of settings, not a single value"
            )
        else:
            for key, value in (members or {}).items():
                name = f"{group}.{key}"
                if name in report.knobs:
                    yield name, _as_text(value)
                else:
                    report.unknown(name, place, report.knobs)


def _as_text(value: Any) -> Any:
    """The text that another source would have to give, so that `true` is no integer here either."""
    if isinstance(value, dict):
        return {str(key): _scalar(item) for key, item in value.items()}
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, dict | list) else str(value)
