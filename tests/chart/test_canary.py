"""Two versions side by side, by each strategy: what the canary is, gets, and leaves."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.rendering import (
    KNATIVE,
    NAME,
    ROOT,
    ROUTE,
    Object,
    Rendered,
    env,
    merged,
    only_container,
    render,
    settings_file,
)

DIGEST = "sha256:" + "1" * 64
STABLE: Object = {
    "image": {"digest": DIGEST},
    "model": {"storageUri": "s3://models/v1"},
    "config": {"server": {"drain_delay_s": 5}, "batching": {"max_batch_size": 32}},
}
CHANGE: Object = {
    "image": {"tag": "0.2.0"},
    "model": {"storageUri": "s3://models/v2"},
    "config": {"server": {"drain_delay_s": 0}},
}
CANARY: Object = {"canary": {"enabled": True, "weight": 20, **CHANGE}}
GRPC: Object = {"route": {"grpc": {"enabled": True, "hostnames": ["grpc.realfake.example.com"]}}}
NATIVE: Object = {
    "kserve": {"version": "v0.21.0", "gatewayApi": True},
    "canary": {"strategy": "native"},
}
# The same change as stable values: what promoting leaves.
PROMOTED = merged(STABLE, CHANGE, {"image": {"digest": ""}})

WAYS = {
    "route": merged(ROUTE, GRPC),
    "native": NATIVE,
    "revision": KNATIVE,
}


def canary_container(rendered: Rendered, way: str) -> Object:
    if way == "route":
        service = rendered.one("InferenceService", f"{NAME}-canary")
        return only_container(service["spec"]["predictor"])
    if way == "native":
        (entry,) = rendered.service["spec"]["canary"]
        return only_container(entry["predictor"])
    return rendered.container


def backends(rule: Object) -> dict[str, int]:
    return {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}


@pytest.mark.parametrize("way", WAYS)
def test_the_canary_runs_what_differs_and_shares_the_rest(way: str) -> None:
    container = canary_container(render(STABLE, CANARY, WAYS[way]), way)
    # A tag that named the stable digest as well would run the stable image.
    assert container["image"] == "registry.example.com/realfake:0.2.0"
    assert env(container)["STORAGE_URI"] == "s3://models/v2"
    assert container["name"] == "kserve-container"


@pytest.mark.parametrize("way", ["route", "native"])
def test_stable_is_what_it_was_while_the_canary_runs(way: str) -> None:
    """Starting a canary, changing its weight and ending it replaces no stable pod."""
    before = render(STABLE, WAYS[way], {"canary": {"strategy": ""}})
    during = render(STABLE, CANARY, WAYS[way])
    after = render(STABLE, CANARY, WAYS[way], {"canary": {"enabled": False}})
    assert before.predictor == during.predictor == after.predictor
    assert settings_file(before) == settings_file(during) == settings_file(after)


@pytest.mark.parametrize("way", ["route", "native"])
def test_the_canary_has_settings_of_its_own_with_their_zeros(way: str) -> None:
    rendered = render(STABLE, CANARY, WAYS[way])
    assert settings_file(rendered)["server"] == {"drain_delay_s": 5, "metrics_port": 8082}
    canary = settings_file(rendered, f"{NAME}-canary-config")
    assert canary["server"] == {"drain_delay_s": 0, "metrics_port": 8082}
    assert canary["batching"] == {"max_batch_size": 32}


PIN, OTHER_PIN = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("values", "pinned"),
    [
        ({}, None),  # CANARY names another model
        ({"canary": {"model": {"digest": OTHER_PIN}}}, OTHER_PIN),
        ({"canary": {"model": {"storageUri": ""}}}, PIN),  # the image differs, not the model
        ({"model": {"storageUri": ""}, "canary": {"model": {"storageUri": ""}}}, None),
    ],
)
def test_a_canary_is_not_held_to_the_stable_bundle(
    values: dict[str, Any], pinned: str | None
) -> None:
    """It would never start."""
    rendered = render(STABLE, {"model": {"digest": PIN}}, CANARY, WAYS["route"], values)
    assert settings_file(rendered)["model"]["digest"] == PIN
    canary = settings_file(rendered, f"{NAME}-canary-config")
    assert canary.get("model", {}).get("digest") == pinned


@pytest.mark.parametrize("way", WAYS)
def test_ending_a_canary_is_one_value(way: str) -> None:
    """Roll back: exactly what was there before, so `helm rollback` does the same."""
    before = render(STABLE, WAYS[way], {"canary": {"strategy": ""}})
    after = render(STABLE, CANARY, WAYS[way], {"canary": {"enabled": False}})
    assert before.objects == after.objects


@pytest.mark.parametrize("way", WAYS)
def test_promoting_leaves_nothing_of_the_canary(way: str) -> None:
    promoted = render(PROMOTED, WAYS[way], {"canary": {"strategy": "", "enabled": False}})
    assert promoted.container["image"] == "registry.example.com/realfake:0.2.0"
    assert not [o for o in promoted.objects if "canary" in o["metadata"]["name"]]
    assert "canary" not in promoted.service["spec"]
    assert "canaryTrafficPercent" not in promoted.predictor


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
@pytest.mark.parametrize("weight", [0, 20, 100])
def test_both_routes_split_by_weight(kind: str, weight: int) -> None:
    rendered = render(STABLE, CANARY, WAYS["route"], {"canary": {"weight": weight}})
    testers, everybody = rendered.one(kind)["spec"]["rules"]
    assert backends(everybody) == {
        f"{NAME}-predictor": 100 - weight,
        f"{NAME}-canary-predictor": weight,
    }
    (match,) = testers["matches"]
    assert match["headers"] == [{"type": "Exact", "name": "X-Realfake-Track", "value": "canary"}]
    assert backends(testers) == {f"{NAME}-canary-predictor": 100}


def documented_canary() -> Object:
    page = (ROOT / "docs" / "chart.md").read_text("utf-8")
    found = re.search(r"^```yaml\n(# canary\.yaml\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    values: Object = yaml.safe_load(found[1])
    return values


@pytest.mark.parametrize(
    "start",
    [{"canary": {"enabled": True, **CHANGE}}, documented_canary()],
    ids=["default", "documented"],
)
def test_a_canary_starts_with_no_share(start: Object) -> None:
    """The route's weights hold before KServe has made the canary's Service, so a share fails."""
    rendered = render(STABLE, start, WAYS["route"])
    for kind in ("HTTPRoute", "GRPCRoute"):
        _, everybody = rendered.one(kind)["spec"]["rules"]
        assert backends(everybody) == {f"{NAME}-predictor": 100, f"{NAME}-canary-predictor": 0}


def test_routes_use_the_ports_of_kserves_service() -> None:
    rendered = render(WAYS["route"])
    for kind, port in (("HTTPRoute", 80), ("GRPCRoute", 8081)):
        (rule,) = rendered.one(kind)["spec"]["rules"]
        assert [b["port"] for b in rule["backendRefs"]] == [port]
        assert backends(rule) == {f"{NAME}-predictor": 100}


def test_a_route_without_testers_has_one_rule() -> None:
    values: dict[str, Any] = {"canary": {"testers": {"header": ""}}}
    rendered = render(STABLE, CANARY, WAYS["route"], values)
    (rule,) = rendered.one("HTTPRoute")["spec"]["rules"]
    assert len(rule["backendRefs"]) == 2


def test_sticky_sessions_are_asked_for_where_weights_are() -> None:
    sticky = {"type": "Cookie", "sessionName": "realfake"}
    rendered = render(STABLE, CANARY, WAYS["route"], {"route": {"sessionPersistence": sticky}})
    testers, everybody = rendered.one("HTTPRoute")["spec"]["rules"]
    assert everybody["sessionPersistence"] == sticky
    assert "sessionPersistence" not in testers


def test_grpc_may_have_a_gateway_of_its_own() -> None:
    mine = {"route": {"grpc": {"parentRefs": [{"name": "grpc", "sectionName": "h2"}]}}}
    rendered = render(WAYS["route"], mine)
    assert [p["name"] for p in rendered.one("HTTPRoute")["spec"]["parentRefs"]] == ["public"]
    assert [p["name"] for p in rendered.one("GRPCRoute")["spec"]["parentRefs"]] == ["grpc"]


def test_a_routed_canary_scales_and_is_guarded_like_stable() -> None:
    keda = {"class": "keda", "keda": {"serverAddress": "http://prometheus:9090"}}
    rendered = render(STABLE, CANARY, WAYS["route"], {"autoscaling": keda})
    canary = rendered.one("InferenceService", f"{NAME}-canary")["spec"]["predictor"]
    assert (canary["minReplicas"], canary["maxReplicas"]) == (1, 2)
    query = canary["autoScaling"]["metrics"][0]["external"]["metric"]["query"]
    assert 'pod=~"demo-canary-predictor-.*"' in query
    policy = rendered.one("NetworkPolicy", NAME)["spec"]["podSelector"]["matchExpressions"][0]
    assert policy["values"] == [NAME, f"{NAME}-canary"]
    selectors = [
        budget["spec"]["selector"]["matchLabels"]["app"]
        for budget in rendered.all("PodDisruptionBudget")
    ]
    assert selectors == ["isvc.demo-predictor", "isvc.demo-canary-predictor"]


def test_a_native_canary_is_written_in_full() -> None:
    """KServe's webhook defaults nothing in it, and refuses a scaler of its own."""
    rendered = render(STABLE, CANARY, WAYS["native"])
    (entry,) = rendered.service["spec"]["canary"]
    assert entry["trafficPercent"] == 20
    predictor = entry["predictor"]
    assert predictor["name"] == "canary"
    assert not {"maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"} & predictor.keys()
    container = only_container(predictor)
    assert container["ports"] == rendered.container["ports"]
    assert container["resources"] == rendered.container["resources"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in predictor["volumes"]}


def test_a_native_canary_at_no_weight_still_runs() -> None:
    """At 0% KServe would take zero replicas from the percentage, and nobody could look at it."""
    rendered = render(STABLE, CANARY, WAYS["native"], {"canary": {"weight": 0}})
    (entry,) = rendered.service["spec"]["canary"]
    assert entry["trafficPercent"] == 0
    assert entry["predictor"]["minReplicas"] == 1


@pytest.mark.parametrize("weight", [0, 20, 100])
def test_a_revision_gets_its_percent(weight: int) -> None:
    rendered = render(STABLE, CANARY, WAYS["revision"], {"canary": {"weight": weight}})
    assert rendered.predictor["canaryTrafficPercent"] == weight
    annotations = rendered.service["metadata"]["annotations"]
    assert annotations["serving.kserve.io/enable-tag-routing"] == "true"


def test_promoting_a_revision_makes_no_new_one() -> None:
    """The promoted spec is the canary's own, so Knative only moves the traffic."""
    during = render(STABLE, CANARY, WAYS["revision"]).predictor
    promoted = render(PROMOTED, WAYS["revision"]).predictor
    during.pop("canaryTrafficPercent")
    assert during == promoted


def test_the_notes_say_what_comes_next() -> None:
    notes = render(STABLE, CANARY, WAYS["route"]).notes
    assert "The canary gets 20%, and every request with X-Realfake-Track: canary" in notes
    assert "--set canary.enabled=false" in notes


def test_the_notes_wait_for_a_canary_before_it_gets_more() -> None:
    notes = render(STABLE, CANARY, WAYS["route"], {"canary": {"weight": 0}}).notes
    wait = notes.index(f"inferenceservice/{NAME}-canary")
    assert wait < notes.index("--set canary.weight=5\n")
