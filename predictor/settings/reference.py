"""How a setting is described: one wording for the documentation, `--help` and error messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

ENV_PREFIX: Final = "REALFAKE_"


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting.

    Attributes:
        name: Dotted, as in YAML: `server.http_port`.
        accepts: What values are allowed, as a noun phrase.
        default: The default as text; "not set" for None, "empty" for a list or pairs without any.
    """

    name: str
    accepts: str
    default: str
    description: str

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.replace(".", "__").upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def knobs_of(schema: Mapping[str, Any]) -> dict[str, Knob]:
    """List the settings of a JSON schema whose properties are groups of settings."""
    knobs = {}
    for group, reference in schema["properties"].items():
        members = schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"]
        for key, member in members.items():
            name = f"{group}.{key}"
            knobs[name] = Knob(
                name=name,
                accepts=_accepts(member),
                default=_text(member.get("default")),
                description=member["description"],
            )
    return knobs


def _accepts(member: Mapping[str, Any]) -> str:
    if "anyOf" in member:
        return _accepts(next(kind for kind in member["anyOf"] if kind["type"] != "null"))
    if "enum" in member:
        return "one of " + ", ".join(str(value) for value in member["enum"])
    if "pattern" in member:
        examples = ", ".join(str(value) for value in member["examples"])
        return f"text such as {examples} (pattern {member['pattern']})"
    kind = member["type"]
    if kind == "object":
        values = member["additionalProperties"]
        return "pairs name=value separated by commas, each value " + _accepts(values)
    if kind in {"integer", "number"}:
        noun = "an integer" if kind == "integer" else "a number"
        if "exclusiveMinimum" in member:
            return f"{noun} above {member['exclusiveMinimum']:g}, up to {member['maximum']:g}"
        return f"{noun} from {_number(member['minimum'])} to {_number(member['maximum'])}"
    if kind == "boolean":
        return "true or false"
    return "a path" if member.get("format") == "path" else "text that is not empty"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _text(default: Any) -> str:
    if default is None:
        return "not set"
    if isinstance(default, dict):
        return ",".join(f"{name}={_text(value)}" for name, value in default.items()) or "empty"
    return default if isinstance(default, str) else json.dumps(default)


def as_flags(knobs: Iterable[Knob]) -> str:
    """The flags, for the end of `--help`."""
    return "\n".join(f"  {knob.flag} ({knob.default}): {knob.accepts}" for knob in knobs)


def as_yaml(effective: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]) -> str:
    """Effective settings as YAML that could be a REALFAKE_CONFIG_FILE, sources as comments."""
    lines = []
    for group, members in effective.items():
        lines.append(f"{group}:")
        for key, value in members.items():
            source = sources.get(f"{group}.{key}", "default")
            lines.append(f"  {key}: {json.dumps(value)}  # {source}")
    return "\n".join(lines)


def as_markdown(knobs: Mapping[str, Knob], groups: Mapping[str, str]) -> str:
    """The reference tables.

    Args:
        groups: What each group is about, by its name.
    """
    parts = []
    for group, about in groups.items():
        parts += [f"## {group}", "", about, "", "| Setting | Accepts | Default | Consequence |"]
        parts.append("|---|---|---|---|")
        for name, knob in knobs.items():
            if name.partition(".")[0] == group:
                cells = (f"`{name}`", _cell(knob.accepts), f"`{knob.default}`", knob.description)
                parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _cell(accepts: str) -> str:
    text, _, pattern = accepts.partition(" (pattern ")
    escaped = pattern[:-1].replace("|", "\\|")
    return f"{text} (`{escaped}`)" if pattern else text
