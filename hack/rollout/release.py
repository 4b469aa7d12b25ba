"""A release with its canary, read from the cluster; and how the canary's share is set to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hack.rollout.cluster import Cluster, Json, backends
from hack.rollout.errors import RolloutError

Strategy: TypeAlias = Literal["route", "native", "revision"]

_MODE: Final = "serving.kserve.io/deploymentMode"
_KNATIVE: Final = ("Knative", "Serverless")


@dataclass(frozen=True)
class Track:
    """One of the two versions that share the traffic."""

    name: str
    pods: str
    """A regular expression that matches the whole name of each of its pods, and no other's."""
    percent: float
    ready: bool
    detail: str = ""
    """Why it is not ready, as far as the cluster says."""


@dataclass(frozen=True)
class Release:
    """An InferenceService and, while a canary runs, both tracks."""

    name: str
    namespace: str
    strategy: Strategy | None
    stable: Track
    canary: Track | None


def read(cluster: Cluster, name: str) -> Release:
    """Find out which strategy is in use from the objects themselves.

    Raises:
        RolloutError: There is no such InferenceService, or no route divides the traffic.
    """
    service = cluster.inference_service(name)
    if service is None:
        raise RolloutError(
            f"there is no InferenceService {name} in namespace {cluster.namespace};"
            " name one with --name and --namespace"
        )
    strategy: Strategy | None = None
    second = None
    if service["metadata"].get("annotations", {}).get(_MODE) in _KNATIVE:
        stable, canary = _revisions(service)
        strategy = "revision"
    elif service["spec"].get("canary"):
        stable, canary = _native(service)
        strategy = "native"
    elif (second := cluster.inference_service(f"{name}-canary")) is not None:
        stable, canary = _routed(cluster, service, second)
        strategy = "route"
    else:
        stable, canary = _track(service, f"{name}-predictor", 100), None
    return Release(name, cluster.namespace, strategy if canary else None, stable, canary)


def stop_canary_traffic(cluster: Cluster, release: Release) -> list[str]:
    """Set the canary's share to 0 in the cluster, whatever its strategy.

    Returns:
        The objects that were changed; empty when the share was 0 already.
    """
    if release.strategy is None:
        raise RolloutError(f"{release.name} has no canary to abort")
    if release.strategy == "route":
        return _stop_routes(cluster, release.name)
    change = _stop_native if release.strategy == "native" else _stop_revision
    changed = cluster.change_inference_service(release.name, change)
    return [f"inferenceservices/{release.name}"] if changed else []


def _track(service: Json, prefix: str, percent: float, name: str = "stable") -> Track:
    ready = _condition(service, "Ready")
    return Track(
        name,
        f"{prefix}-.+",
        percent,
        ready.get("status") == "True",
        ready.get("message") or ready.get("reason") or "",
    )


def _condition(service: Json, kind: str) -> Json:
    conditions: list[Json] = service.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def _routed(cluster: Cluster, service: Json, second: Json) -> tuple[Track, Track]:
    name = service["metadata"]["name"]
    shares = {
        share
        for _, route in cluster.routes_to(f"{name}-canary-predictor")
        for share in _shares(route, name)
    }
    if not shares:
        raise RolloutError(
            f"no HTTPRoute or GRPCRoute divides traffic between {name} and {name}-canary;"
            " is the canary's route enabled, and Gateway API installed?"
        )
    if len(shares) > 1:
        listed = ", ".join(f"{share:g}" for share in sorted(shares))
        raise RolloutError(
            f"the routes of {name} disagree about the canary's share ({listed} %); run helm upgrade"
        )
    share = shares.pop()
    return (
        _track(service, f"{name}-predictor", 100 - share),
        _track(second, f"{name}-canary-predictor", share, "canary"),
    )


def _shares(route: Json, name: str) -> list[float]:
    """The canary's percentage in each rule that divides traffic; a testers' rule does not."""
    shares = []
    for rule in route["spec"].get("rules", ()):
        weights = {one["name"]: one.get("weight", 1) for one in rule.get("backendRefs", ())}
        if {f"{name}-predictor", f"{name}-canary-predictor"} <= set(weights):
            total = sum(weights.values())
            shares.append(100 * weights[f"{name}-canary-predictor"] / total if total else 0.0)
    return shares


def _stop_routes(cluster: Cluster, name: str) -> list[str]:
    def change(route: Json) -> bool:
        changed = False
        for rule in route["spec"].get("rules", ()):
            if not any(_shares({"spec": {"rules": [rule]}}, name)):
                continue
            for backend in rule["backendRefs"]:
                canary = backend["name"] == f"{name}-canary-predictor"
                backend["weight"] = 0 if canary else max(backend.get("weight", 1), 1)
            changed = True
        return changed

    found = [
        (plural, route["metadata"]["name"])
        for plural, route in cluster.routes_to(f"{name}-canary-predictor")
        if len(list(backends(route))) > 1
    ]
    return [
        f"{plural}/{route}"
        for plural, route in found
        if cluster.change_route(plural, route, change)
    ]


def _native(service: Json) -> tuple[Track, Track]:
    name = service["metadata"]["name"]
    entries = service["spec"]["canary"]
    if len(entries) > 1:
        raise RolloutError(f"{name} has {len(entries)} canaries; this assistant compares one")
    percent = entries[0].get("trafficPercent", 0)
    own = service["spec"]["predictor"].get("name")
    ready = _condition(service, "CanaryPredictorReady")
    stable = _track(
        service, f"{name}-{own}-predictor" if own else f"{name}-predictor", 100 - percent
    )
    return stable, Track(
        "canary",
        f"{name}-{entries[0]['predictor']['name']}-predictor-.+",
        percent,
        ready.get("status") == "True",
        ready.get("message") or ready.get("reason") or "",
    )


def _stop_native(service: Json) -> bool:
    entry = service["spec"]["canary"][0]
    changed: bool = entry.get("trafficPercent", 0) != 0
    entry["trafficPercent"] = 0
    return changed


def _revisions(service: Json) -> tuple[Track, Track | None]:
    percent = service["spec"]["predictor"].get("canaryTrafficPercent")
    status = service.get("status", {}).get("components", {}).get("predictor", {})
    newest = status.get("latestCreatedRevision", "")
    baseline = status.get("latestRolledoutRevision", newest)
    if percent is None or newest in ("", baseline):
        return _track(service, f"{baseline}-deployment", 100), None
    ready = status.get("latestReadyRevision") == newest
    detail = "" if ready else f"revision {newest} is not ready"
    return (
        _track(service, f"{baseline}-deployment", 100 - percent),
        Track("canary", f"{newest}-deployment-.+", percent, ready, detail),
    )


def _stop_revision(service: Json) -> bool:
    predictor = service["spec"]["predictor"]
    changed: bool = predictor.get("canaryTrafficPercent") != 0
    predictor["canaryTrafficPercent"] = 0
    return changed
