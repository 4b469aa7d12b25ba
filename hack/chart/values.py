"""Read values.yaml with its comments: what a value is for, and which values it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml.

    Attributes:
        path: Dotted: `autoscaling.keda.target`.
        rules: The `# @schema` comment above it.
        members: Keys below it, when it is a mapping that has any.
    """

    path: str
    default: Any
    description: str
    rules: dict[str, Any]
    members: tuple[Value, ...] = field(default=())

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]


def read(path: Path) -> tuple[Value, ...]:
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} must hold a mapping")
    return tuple(_values(root, yaml.safe_load(text), text.splitlines(), ""))


def walk(values: tuple[Value, ...]) -> Iterator[Value]:
    """Every value that a user sets: the leaves, and mappings that describe themselves whole."""
    for value in values:
        if value.members and not _is_whole(value):
            yield from walk(value.members)
        else:
            yield value


def _is_whole(value: Value) -> bool:
    return "$k8s" in value.rules or "additionalProperties" in value.rules


def _values(
    node: yaml.MappingNode, defaults: dict[str, Any], lines: list[str], prefix: str
) -> Iterator[Value]:
    for key, child in node.value:
        path = f"{prefix}{key.value}"
        description, rules = _comments(lines, key.start_mark.line)
        members: tuple[Value, ...] = ()
        if isinstance(child, yaml.MappingNode):
            members = tuple(_values(child, defaults[key.value], lines, f"{path}."))
        yield Value(path, defaults[key.value], description, rules, members)


def _comments(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """The description and the rules in the comment lines right above a key."""
    description: list[str] = []
    rules: dict[str, Any] = {}
    start = line
    while start and lines[start - 1].lstrip().startswith("# "):
        start -= 1
    for comment in lines[start:line]:
        text = comment.lstrip().removeprefix("# ")
        if text.startswith("@schema "):
            rules = yaml.safe_load(text.removeprefix("@schema "))
        elif text.startswith("-- "):
            description = [text.removeprefix("-- ")]
    return " ".join(description), rules
