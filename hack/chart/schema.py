"""values.schema.json, strict at every depth.

From the defaults and `# @schema` comments of values.yaml, the settings classes for `config`, and
Kubernetes' own schemas for the pieces that are passed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

from hack.chart.values import Value
from predictor.settings import Settings

# The oldest Kubernetes that the chart supports (Chart.yaml): newer fields would be dropped there.
KUBERNETES: Final = "v1.29.0-local-strict"
REF: Final = "#/definitions/"

# Settings that follow from other values: given twice, they could disagree.
OWNED: Final = {
    "auth": ("mode", "keys_dir"),
    "model": ("digest",),
    "server": ("http_port", "grpc_port", "metrics_port", "metrics_enabled"),
}

_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}

# The Gateway API is no part of Kubernetes, so these two are written here.
_PARENT_REF: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "group": {"type": "string"},
        "kind": {"type": "string"},
        "name": {"type": "string", "minLength": 1},
        "namespace": {"type": "string"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "sectionName": {"type": "string"},
    },
}
_SESSION_PERSISTENCE: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "absoluteTimeout": {"type": "string"},
        "cookieConfig": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"lifetimeType": {"enum": ["Permanent", "Session"]}},
        },
        "idleTimeout": {"type": "string"},
        "sessionName": {"type": "string"},
        "type": {"enum": ["Cookie", "Header"]},
    },
}


def render(values: tuple[Value, ...]) -> str:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the realfake chart",
        **_object(values),
    }
    definitions = {
        "config": config_schema(),
        "parentRef": _PARENT_REF,
        "sessionPersistence": _SESSION_PERSISTENCE,
    }
    # Kubernetes describes only what is used, or the file would be a megabyte.
    kubernetes = json.loads(
        (files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES)
        .joinpath("_definitions.json")
        .read_text(encoding="utf-8")
    )["$defs"]
    pending = list(_references(schema))
    while pending:
        name = pending.pop()
        if name not in definitions:
            definitions[name] = _without_prose(kubernetes[name])
            pending += _references(definitions[name])
    schema["definitions"] = dict(sorted(definitions.items()))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def config_schema() -> dict[str, Any]:
    """The settings classes as a schema in which everything is optional."""
    source = Settings.model_json_schema()
    groups: dict[str, Any] = {}
    for group, reference in source["properties"].items():
        settings = source["$defs"][reference["$ref"].rpartition("/")[2]]
        owned = OWNED.get(group, ())
        groups[group] = {
            "type": "object",
            "additionalProperties": False,
            "description": settings["description"],
            "properties": {
                key: _inlined(rule, source["$defs"])
                for key, rule in settings["properties"].items()
                if key not in owned
            },
        }
    return {"type": "object", "additionalProperties": False, "properties": groups}


def settings_defaults() -> dict[str, dict[str, Any]]:
    """The default of every setting, for what the templates derive from settings."""
    defaults: dict[str, dict[str, Any]] = Settings().model_dump(mode="json")
    return defaults


def _inlined(rule: Any, known: dict[str, Any]) -> Any:
    """A rule without references, and without titles and defaults, which are the application's."""
    if isinstance(rule, list):
        return [_inlined(item, known) for item in rule]
    if not isinstance(rule, dict):
        return rule
    if "$ref" in rule:
        return _inlined(known[rule["$ref"].rpartition("/")[2]], known)
    return {
        key: _inlined(value, known)
        for key, value in rule.items()
        # `format: path` is pydantic's; a validator that asserts formats does not know it.
        if key not in {"title", "default", "format"}
    }


def _object(values: tuple[Value, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.key: _rule(value) for value in values},
    }


def _rule(value: Value) -> dict[str, Any]:
    described = {"description": value.description} if value.description else {}
    rules = _resolved(value.rules)
    if "$ref" in rules:
        # In draft-07 nothing beside a $ref counts.
        return {**described, "allOf": [rules]}
    if isinstance(value.default, dict):
        # An open mapping names no members; any other is strict.
        inner = {"type": "object"} if "additionalProperties" in rules else _object(value.members)
        return {**described, **inner, **rules}
    inferred = {} if "enum" in rules else {"type": _TYPES.get(type(value.default), "string")}
    return {**described, **inferred, **rules}


def _resolved(rules: Any) -> Any:
    """Turn the shorthands of `# @schema` into references."""
    if not isinstance(rules, dict):
        return rules
    if "$k8s" in rules:
        return {"$ref": REF + rules["$k8s"]}
    for shorthand in ("config", "parentRef", "sessionPersistence"):
        if f"${shorthand}" in rules:
            return {"$ref": REF + shorthand}
    return {key: _resolved(rule) for key, rule in rules.items()}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield value.removeprefix(REF)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _without_prose(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str))
        and not key.startswith("x-kubernetes")
        and not (key == "format" and isinstance(value, str))
    }
    if isinstance(kept.get("$ref"), str):
        return {"$ref": REF + kept["$ref"].rpartition("/")[2]}
    return kept
