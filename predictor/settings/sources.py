"""Where a setting's value comes from: command line, environment, `.env`, YAML, first wins.

Every source yields text under a dotted name (`server.http_port`), with the place it was found,
so that one set of rules validates them all and every refusal can say where to look. Values are
never part of a message: a key pasted into the wrong variable must not end in a log.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv import dotenv_values

from predictor.settings.reference import ENV_PREFIX, Knob

CONFIG_FILE_ENV: Final = "REALFAKE_CONFIG_FILE"

_FLAG: Final = re.compile(r"--(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)+)(?:=(?P<text>.*))?", re.DOTALL)
# Kubernetes describes a Service named `realfake…` to every pod beside it in variables like these.
_SERVICE_LINK: Final = re.compile(
    r"REALFAKE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_SERVICE_LINK_URL: Final = re.compile(r"(?:tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as text, and the place it was found. None means: left to the default."""

    text: str | None
    source: str


@dataclass(slots=True)
class Gathered:
    """What all sources together say: the winning value per name, and what is wrong with them."""

    values: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, values: Iterable[tuple[str, Given]]) -> None:
        """Take what no earlier source has given. An empty text is nobody's intention."""
        for name, given in values:
            if given.text is not None and not given.text.strip():
                self.problems.append(
                    f"{name} ({given.source}): is empty; give a value or remove it"
                )
            else:
                self.values.setdefault(name, given)


def gather(
    knobs: Mapping[str, Knob],
    argv: Sequence[str],
    environ: Mapping[str, str],
    dotenv: Path | None,
) -> Gathered:
    """Read every source, in order of precedence, and collect what is wrong instead of stopping."""
    found = Gathered()
    found.add(_from_command_line(knobs, argv, found.problems))
    found.add(_from_variables(knobs, environ, "environment variable", found.problems))
    file_variables: Mapping[str, str] = {}
    if dotenv is not None and dotenv.is_file():
        parsed = dotenv_values(dotenv, interpolate=False)
        file_variables = {name: text or "" for name, text in parsed.items()}
        found.add(_from_variables(knobs, file_variables, f"{dotenv.name} file,", found.problems))
    config = environ.get(CONFIG_FILE_ENV) or file_variables.get(CONFIG_FILE_ENV)
    if config:
        found.add(_from_yaml(knobs, Path(config), found.problems))
    return found


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate settings flags (`--server.http-port 9000`) from a command's own arguments."""
    flags: list[str] = []
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        match = _FLAG.fullmatch(token)
        if match is None:
            rest.append(token)
            continue
        flags.append(token)
        if match["text"] is None:
            flags.extend(_next(tokens))
    return flags, rest


def _next(tokens: Iterator[str]) -> list[str]:
    token = next(tokens, None)
    return [] if token is None else [token]


def _from_command_line(
    knobs: Mapping[str, Knob], argv: Sequence[str], problems: list[str]
) -> list[tuple[str, Given]]:
    # Within one command line the last flag wins, as everywhere else.
    values: dict[str, Given] = {}
    tokens = iter(argv)
    for token in tokens:
        match = _FLAG.fullmatch(token)
        if match is None:
            problems.append(
                "command line: an argument is no setting; write settings as --group.name VALUE"
            )
            continue
        name = match["name"].replace("-", "_")
        text = match["text"]
        if text is None:
            text = next(tokens, None)
        if name not in knobs:
            near = _near("--" + match["name"], [knob.flag for knob in knobs.values()])
            problems.append(f"--{match['name']} (command line): no such setting; {near}")
        elif text is None:
            problems.append(f"{name} (command line): {knobs[name].flag} needs a value after it")
        else:
            values[name] = Given(text, f"command line {knobs[name].flag}")
    return list(values.items())


def _from_variables(
    knobs: Mapping[str, Knob], variables: Mapping[str, str], place: str, problems: list[str]
) -> list[tuple[str, Given]]:
    by_env = {knob.env: knob.name for knob in knobs.values()}
    values: list[tuple[str, Given]] = []
    for variable, text in variables.items():
        if not variable.upper().startswith(ENV_PREFIX) or variable == CONFIG_FILE_ENV:
            continue
        source = f"{place} {variable}"
        if variable in by_env:
            values.append((by_env[variable], Given(text, source)))
        elif not _is_service_link(variable, text):
            near = _near(variable, [*by_env, CONFIG_FILE_ENV])
            problems.append(f"{variable} ({source}): no such setting; {near}")
    return values


def _is_service_link(variable: str, text: str) -> bool:
    if "__" in variable:
        return False
    if variable.endswith("_PORT") and _SERVICE_LINK_URL.match(text):
        return True
    return _SERVICE_LINK.fullmatch(variable) is not None


def _from_yaml(
    knobs: Mapping[str, Knob], path: Path, problems: list[str]
) -> list[tuple[str, Given]]:
    source = f"YAML file {path}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problems.append(f"{CONFIG_FILE_ENV}: cannot read {path}: {reason}; mount it or unset it")
        return []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problems.append(f"{source}: not valid YAML{line}")
        return []
    values: list[tuple[str, Given]] = []
    for name, value in _leaves(content, knobs, source, problems):
        values.append((name, Given(_as_text(value), source)))
    return values


def _leaves(
    content: Any, knobs: Mapping[str, Knob], source: str, problems: list[str]
) -> Iterator[tuple[str, Any]]:
    if content is None:
        return
    groups = sorted({name.partition(".")[0] for name in knobs})
    if not isinstance(content, dict):
        problems.append(f"{source}: must hold groups ({', '.join(groups)}), each with settings")
        return
    for group, members in content.items():
        if group not in groups:
            near = _near(str(group), groups)
            problems.append(f"{group} ({source}): no such group of settings; {near}")
        elif members is not None and not isinstance(members, dict):
            problems.append(f"{group} ({source}): must be a group of settings, not a single value")
        else:
            for key, value in (members or {}).items():
                name = f"{group}.{key}"
                if name not in knobs:
                    near = _near(name, list(knobs))
                    problems.append(f"{name} ({source}): no such setting; {near}")
                elif isinstance(value, dict | list):
                    problems.append(f"{name} ({source}): must be {knobs[name].accepts}")
                else:
                    yield name, value


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _near(wrong: str, known: Sequence[str]) -> str:
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower(), list(folded), n=2, cutoff=0.7)
    if near:
        return "did you mean " + " or ".join(folded[name] for name in near) + "?"
    return "see docs/settings.md for the names, and remove it"
