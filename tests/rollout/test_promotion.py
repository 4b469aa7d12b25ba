"""A promotion by values, rendered by helm: stable becomes what the canary was, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from hack.rollout.errors import RolloutError
from hack.rollout.helm import aborted, promoted
from tests.server.process import ROOT

CHART = ROOT / "charts" / "realfake"
PROFILES = sorted(CHART.glob("ci/canary-*-values.yaml"))


def render(values: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every object that helm would apply, by kind."""
    helm = pytest.importorskip("helm_python")
    files = helm.Chart.load(CHART).render(copy.deepcopy(values), name="demo", namespace="vision")
    found: dict[str, list[dict[str, Any]]] = {}
    for path, text in files.items():
        for document in yaml.safe_load_all(text) if not path.endswith("NOTES.txt") else ():
            if document:
                found.setdefault(document["kind"], []).append(document)
    return found


def canary_of(objects: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The predictor that the canary runs, wherever its strategy puts it."""
    services = {one["metadata"]["name"]: one["spec"] for one in objects["InferenceService"]}
    native = services["demo"].get("canary")
    predictor: dict[str, Any] = (
        native[0]["predictor"]
        if native
        else services.get("demo-canary", services["demo"])["predictor"]
    )
    return predictor


def served(predictor: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The image and the environment: the bundle, and in Knative the settings."""
    (container,) = predictor["containers"]
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    return container["image"], env


def settings(objects: dict[str, list[dict[str, Any]]], name: str) -> Any:
    """The mounted settings of one track; None in Knative."""
    for one in objects.get("ConfigMap", ()):
        if one["metadata"]["name"] == name:
            return yaml.safe_load(one["data"]["settings.yaml"])
    return None


@pytest.mark.skipif(not PROFILES, reason="charts/realfake is not in this checkout")
@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_stable_serves_what_the_canary_served(profile: Any) -> None:
    """A tag that loses to stable's digest would promote nothing, and say that it did."""
    values = yaml.safe_load(profile.read_text())
    before, after = render(values), render(promoted(values))
    (stable,) = after["InferenceService"]
    assert served(stable["spec"]["predictor"]) == served(canary_of(before))
    assert settings(after, "demo-config") == settings(before, "demo-canary-config")


@pytest.mark.skipif(not PROFILES, reason="charts/realfake is not in this checkout")
@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_an_abort_renders_as_if_there_had_been_no_canary(profile: Any) -> None:
    values = yaml.safe_load(profile.read_text())
    without = {name: value for name, value in values.items() if name != "canary"}
    assert render(aborted(values)) == render(without)


@pytest.mark.parametrize(
    ("canary", "image"),
    [
        ({"tag": "2"}, {"repository": "r", "tag": "2", "digest": "", "pullPolicy": "Always"}),
        (
            {"digest": "sha256:b", "tag": ""},
            {"repository": "r", "tag": "", "digest": "sha256:b", "pullPolicy": "Always"},
        ),
        (
            {"repository": "other"},
            {"repository": "other", "tag": "1", "digest": "", "pullPolicy": "Always"},
        ),
    ],
)
def test_an_image_is_promoted_whole(canary: dict[str, str], image: dict[str, str]) -> None:
    values = {
        "image": {"repository": "r", "tag": "1", "digest": "sha256:a", "pullPolicy": "Always"},
        "canary": {"enabled": True, "image": canary},
    }
    assert promoted(values)["image"] == image


@pytest.mark.parametrize(
    ("canary", "digest"),
    [
        ({"model": {"storageUri": "s3://new"}}, ""),
        ({"model": {"storageUri": "s3://new", "digest": "new"}}, "new"),
        ({"config": {"model": {"path": "/elsewhere"}}}, ""),
        ({"image": {"tag": "2"}}, "old"),
    ],
)
def test_a_promoted_bundle_is_not_held_to_the_old_one(canary: dict[str, Any], digest: str) -> None:
    """It would never start."""
    values = {
        "image": {"tag": "1"},
        "model": {"storageUri": "s3://old", "digest": "old"},
        "canary": {"enabled": True, **canary},
    }
    assert promoted(values)["model"]["digest"] == digest


def test_settings_that_are_zero_or_off_are_promoted() -> None:
    values = {
        "config": {"batching": {"max_wait_ms": 5, "max_queue": 8}},
        "canary": {
            "enabled": True,
            "config": {"batching": {"max_wait_ms": 0}, "server": {"a": False}},
        },
    }
    assert promoted(values)["config"] == {
        "batching": {"max_wait_ms": 0, "max_queue": 8},
        "server": {"a": False},
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no canary.enabled"),
        ({"canary": {"enabled": False, "image": {"tag": "2"}}}, "no canary.enabled"),
        ({"canary": {"enabled": True, "image": {"tag": ""}}}, "overrides none"),
    ],
)
def test_nothing_to_promote_is_said(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        promoted(values)
