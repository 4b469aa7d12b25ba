"""A name that is misspelt is refused at every depth, and so is a value that cannot be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from predictor.settings import Settings, knobs
from tests.chart.rendering import CHART, LEAST, merged, profile

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Free on purpose: maps of labels and their like, and the two open keys.
FREE = {"global", "extra", "nodeSelector", "labels", "annotations", "keys"}
FREE |= {"podLabels", "podAnnotations", "matchLabels", "requests", "limits"}


def refused(values: dict[str, Any]) -> bool:
    with helm_python.Chart.load(CHART) as chart:
        try:
            chart.validate_schema(values)
        except helm_python.HelmValuesError:
            return True
    return False


def mappings(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every mapping that has a fixed set of keys."""
    if isinstance(node, dict):
        if path and path[-1] in FREE:
            return
        yield path
        for key, value in node.items():
            yield from mappings(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from mappings(value, (*path, index))


def everything() -> dict[str, Any]:
    """Defaults and scenarios together, so that every mapping is there once."""
    with helm_python.Chart.load(CHART) as chart:
        values = chart.values
    for name in ("gpu", "s3", "canary-route", "knative"):
        values = merged(values, profile(name))
    values["config"] = {group: {} for group in Settings.model_fields}
    return values


@pytest.mark.parametrize("path", list(mappings(everything())), ids=lambda p: ".".join(map(str, p)))
def test_an_unknown_name_is_refused(path: tuple[str | int, ...]) -> None:
    values = everything()
    assert not refused(values)
    node: Any = values
    for key in path:
        node = node[key]
    node["repicas"] = 1
    assert refused(values)


@pytest.mark.parametrize("key", ["global", "extra"])
def test_two_keys_are_open(key: str) -> None:
    assert not refused(merged(LEAST, {key: {"anything": {"at": ["all"]}}}))


@pytest.mark.parametrize(
    "values",
    [
        {"deploymentMode": "RawDeployment"},
        {"image": {"digest": "latest"}},
        {"model": {"storageUri": "models/v3"}},
        {"model": {"storageUri": "s3://models/{{ .Name }}"}},
        {"auth": {"keys": {"app": "rf_a-key-in-clear"}}},
        {"auth": {"keys": {"not a file name!": "sha256:" + "0" * 64}}},
        {"autoscaling": {"minReplicas": -1}},
        {"autoscaling": {"hpa": {"cpu": 101}}},
        {"autoscaling": {"class": "kpa"}},
        {"canary": {"weight": 101}},
        {"canary": {"weight": 12.5}},
        {"kserve": {"version": "latest"}},
        {"resources": {"limits": {"cpu": ["1"]}}},
        {"config": {"server": {"drain_delay_s": 301}}},
        {"config": {"batching": {"max_batch_size": "many"}}},
        {"config": {"model": {"dtype": "int8"}}},
        {"config": {"auth": {"mode": "none"}}},
        {"config": {"server": {"http_port": 9000}}},
        {"canary": {"config": {"limits": {"max_pixels": 1}}}},
        {"podDisruptionBudget": {"maxUnavailable": "one"}},
        {"tolerations": [{"key": "a", "operater": "Exists"}]},
        {"networkPolicy": {"clients": [{"ipBlock": {"cird": "10.0.0.0/8"}}]}},
        {"networkPolicy": {"dnsPorts": []}},  # would open every port
        {"route": {"parentRefs": [{"namespace": "gateways"}]}},
    ],
    ids=json.dumps,
)
def test_a_value_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    assert refused(merged(LEAST, values))


def test_every_setting_is_in_the_schema_or_owned_by_the_chart() -> None:
    """A setting that is added to the application is a value of the chart without anybody's help."""
    groups = SCHEMA["definitions"]["config"]["properties"]
    offered = {f"{group}.{key}" for group, rule in groups.items() for key in rule["properties"]}
    owned = set(knobs()) - offered
    assert owned <= {
        "auth.mode",
        "auth.keys_dir",
        "model.digest",
        "server.http_port",
        "server.grpc_port",
        "server.metrics_port",
        "server.metrics_enabled",
    }


def test_every_value_is_described_or_obvious() -> None:
    """The README is made from descriptions; a group without one has them on its members."""
    silent = [
        name
        for name, rule in SCHEMA["properties"].items()
        if "description" not in rule and not rule.get("properties")
    ]
    assert set(silent) <= {
        "affinity",
        "extraEnv",
        "extraVolumes",
        "extraVolumeMounts",
        "nodeSelector",
        "podAnnotations",
        "podLabels",
        "priorityClassName",
        "runtimeClassName",
        "securityContext",
        "tolerations",
    }


def test_no_rule_is_left_unresolved() -> None:
    text = json.dumps(copy.deepcopy(SCHEMA))
    assert "$k8s" not in text
    assert "#/$defs" not in text
