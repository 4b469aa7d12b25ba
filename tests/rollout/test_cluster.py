"""Reading a release and taking a canary's traffic away, against a real API server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from hack.ports import free_port
from hack.rollout.cluster import Cluster
from hack.rollout.errors import RolloutError
from hack.rollout.release import Release, read, stop_canary_traffic
from tests.rollout.objects import NAME, TESTERS, Namespace


def cluster_of(namespace: Namespace) -> Cluster:
    return Cluster(namespace.name, namespace.server.api)


def release_of(namespace: Namespace) -> Release:
    return read(cluster_of(namespace), NAME)


CANARIES: dict[str, Callable[[Namespace], None]] = {
    "route": Namespace.routed_canary,
    "native": Namespace.native_canary,
    "revision": Namespace.revision_canary,
}
PODS = {
    "route": (f"{NAME}-predictor-.+", f"{NAME}-canary-predictor-.+"),
    "native": (f"{NAME}-predictor-.+", f"{NAME}-next-predictor-.+"),
    "revision": (f"{NAME}-predictor-00001-deployment-.+", f"{NAME}-predictor-00002-deployment-.+"),
}


@pytest.mark.parametrize("strategy", CANARIES)
def test_each_strategy_is_recognised_by_its_objects(strategy: str, namespace: Namespace) -> None:
    CANARIES[strategy](namespace)
    release = release_of(namespace)
    assert release.strategy == strategy
    assert release.canary is not None
    assert (release.stable.percent, release.canary.percent) == (80, 20)
    assert (release.stable.pods, release.canary.pods) == PODS[strategy]
    assert release.canary.ready


@pytest.mark.parametrize("strategy", CANARIES)
def test_an_abort_leaves_the_canary_without_traffic(strategy: str, namespace: Namespace) -> None:
    CANARIES[strategy](namespace)
    cluster = cluster_of(namespace)
    assert stop_canary_traffic(cluster, release_of(namespace)) != []
    after = release_of(namespace)
    assert after.canary is not None
    assert (after.stable.percent, after.canary.percent) == (100, 0)
    assert stop_canary_traffic(cluster, after) == [], "a second abort has nothing to do"


def test_an_abort_keeps_what_is_not_its_own(namespace: Namespace) -> None:
    """A rewrite that drops ports, matches or the testers' rule would break the stable version."""
    namespace.routed_canary()
    before = namespace.read_rules()
    stop_canary_traffic(cluster_of(namespace), release_of(namespace))
    before[1]["backendRefs"][1]["weight"] = 0
    assert namespace.read_rules() == before
    assert before[0] == TESTERS


def test_both_protocols_are_aborted(namespace: Namespace) -> None:
    namespace.routed_canary()
    stop_canary_traffic(cluster_of(namespace), release_of(namespace))
    for kind in ("HTTPRoute", "GRPCRoute"):
        assert namespace.read_rules(kind)[1]["backendRefs"][1]["weight"] == 0


def test_all_traffic_on_the_canary_can_be_aborted(namespace: Namespace) -> None:
    """With stable at weight 0 too, every backend would be at 0 and the gateway would answer 500."""
    namespace.routed_canary(weights=(0, 100))
    stop_canary_traffic(cluster_of(namespace), release_of(namespace))
    stable, canary = namespace.read_rules()[1]["backendRefs"]
    assert stable["weight"] > 0
    assert canary["weight"] == 0


def test_a_write_by_somebody_else_is_not_overwritten(namespace: Namespace) -> None:
    namespace.routed_canary()
    calls: list[str] = []

    def change(route: dict[str, Any]) -> bool:
        if not calls:
            namespace.label_route("HTTPRoute", "theirs")
        calls.append(route["metadata"]["resourceVersion"])
        route["spec"]["rules"][1]["backendRefs"][1]["weight"] = 7
        return True

    assert cluster_of(namespace).change_route("httproutes", f"{NAME}-split", change)
    assert len(calls) == 2, "the first write was a conflict"
    routes = dict(cluster_of(namespace).routes_to(f"{NAME}-canary-predictor"))
    assert routes["httproutes"]["metadata"]["labels"] == {"other-writer": "theirs"}
    assert namespace.read_rules()[1]["backendRefs"][1]["weight"] == 7


def test_a_writer_that_never_rests_is_reported(namespace: Namespace) -> None:
    namespace.routed_canary()
    calls: list[int] = []

    def change(route: dict[str, Any]) -> bool:
        calls.append(1)
        namespace.label_route("HTTPRoute", str(len(calls)))
        return True

    with pytest.raises(RolloutError, match="keeps changing"):
        cluster_of(namespace).change_route("httproutes", f"{NAME}-split", change)


def test_a_release_without_a_canary(namespace: Namespace) -> None:
    namespace.service()
    release = release_of(namespace)
    assert (release.canary, release.strategy) == (None, None)
    with pytest.raises(RolloutError, match="no canary"):
        stop_canary_traffic(cluster_of(namespace), release)


def test_a_canary_that_cannot_start_says_why(namespace: Namespace) -> None:
    namespace.routed_canary(ready=False)
    canary = release_of(namespace).canary
    assert canary is not None
    assert (canary.ready, canary.detail) == (False, "Pulling")


def _routes_disagree(namespace: Namespace) -> None:
    namespace.service()
    namespace.service(f"{NAME}-canary")
    namespace.route("HTTPRoute", (80, 20))
    namespace.route("GRPCRoute", (50, 50))


def _no_route(namespace: Namespace) -> None:
    namespace.service()
    namespace.service(f"{NAME}-canary")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda namespace: None, "no InferenceService detector"),
        (_no_route, "no HTTPRoute or GRPCRoute"),
        (_routes_disagree, r"disagree.*20, 50"),
    ],
)
def test_what_cannot_be_read_is_explained(
    prepare: Callable[[Namespace], None], message: str, namespace: Namespace
) -> None:
    prepare(namespace)
    with pytest.raises(RolloutError, match=message):
        release_of(namespace)


def test_an_api_server_that_is_gone_is_explained(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = namespace.server.kubeconfig.read_text()
    port = dead.split("127.0.0.1:")[1].split("\n")[0]
    moved = namespace.server.kubeconfig.with_name("dead")
    moved.write_text(dead.replace(port, str(free_port())))
    monkeypatch.setenv("KUBECONFIG", str(moved))
    with (
        closing(Cluster.connect("default", "tests")) as cluster,
        pytest.raises(RolloutError, match="cannot be reached"),
    ):
        read(cluster, NAME)
