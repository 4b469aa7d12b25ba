"""What the chart and the raw manifests give KServe fits the types of its own SDK."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kserve import models as kserve_models
from kubernetes.client import models as kubernetes_models

from hack.chart.manifests import MANIFESTS
from tests.chart.rendering import PROFILES, profile, render_exactly

PRIMITIVES: dict[str, type] = {"str": str, "int": int, "bool": bool}
CONTAINER_OF = re.compile(r"(?:list\[|dict\(str, )(.+)[\])]")


def misfits(value: Any, kind: str, place: str = "") -> list[str]:
    """Names that the SDK's type does not have, and values of another shape, by their place."""
    inner = CONTAINER_OF.fullmatch(kind)
    if inner is not None:
        expected = list if kind.startswith("list") else dict
        if not isinstance(value, expected):
            return [f"{place}: not a {expected.__name__}"]
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [m for key, item in items for m in misfits(item, inner[1], f"{place}.{key}")]
    if kind in PRIMITIVES:
        return [] if isinstance(value, PRIMITIVES[kind]) else [f"{place}: not {kind}"]
    model = model_of(kind)
    if model is None:
        return []
    if not isinstance(value, dict):
        return [f"{place}: not a {kind}"]
    names = {theirs: ours for ours, theirs in model.attribute_map.items()}
    found = [f"{place}.{key}: unknown to {kind}" for key in value.keys() - names.keys()]
    for key in value.keys() & names.keys():
        found += misfits(value[key], model.openapi_types[names[key]], f"{place}.{key}")
    return found


def model_of(kind: str) -> Any:
    """The class of a type; None for what has none, such as a quantity."""
    plain = re.sub(r"^K8sIoApi[A-Z][a-z]+", "", kind)
    for module in (kserve_models, kubernetes_models):
        model = getattr(module, kind, None) or getattr(module, plain, None)
        if model is not None:
            return model
    return None


@pytest.mark.parametrize("name", PROFILES)
def test_inference_services_fit(name: str) -> None:
    for service in render_exactly(profile(name)).all("InferenceService"):
        assert misfits(service, "V1beta1InferenceService") == []


@pytest.mark.parametrize(
    "path", sorted(MANIFESTS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_raw_manifests_fit(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    types = {
        "InferenceService": "V1beta1InferenceService",
        "ServingRuntime": "V1alpha1ServingRuntime",
    }
    if isinstance(document, dict) and document.get("kind") in types:
        assert misfits(document, types[document["kind"]]) == []


def test_a_name_that_kserve_does_not_have_is_found() -> None:
    """The check itself: a canary, deep inside, that would be dropped silently."""
    (service,) = render_exactly(profile("canary-native")).all("InferenceService")
    (canary,) = service["spec"]["canary"]
    canary["predictor"]["containers"][0]["resorces"] = {}
    (found,) = misfits(service, "V1beta1InferenceService")
    assert found.endswith(".resorces: unknown to V1Container")
