"""The objects of a release, as the chart and the controller leave them in a namespace."""

from __future__ import annotations

from typing import Any

from tests.rollout.processes import ApiServer

NAME = "detector"
_SERVICES = ("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
_ROUTES = {
    "HTTPRoute": ("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
    "GRPCRoute": ("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute"),
}
TESTERS = {
    "matches": [{"headers": [{"name": "x-canary", "value": "always"}]}],
    "backendRefs": [{"name": f"{NAME}-canary-predictor", "port": 80, "weight": 1}],
}


class Namespace:
    """Creates and reads objects in one namespace of the API server."""

    def __init__(self, server: ApiServer, name: str) -> None:
        self.name = name
        self.server = server

    def service(
        self,
        name: str = NAME,
        *,
        spec: dict[str, Any] | None = None,
        status: dict[str, Any] | None = None,
        mode: str = "Standard",
    ) -> None:
        """An InferenceService with the status that a controller would write."""
        body = {
            "metadata": {
                "name": name,
                "annotations": {"serving.kserve.io/deploymentMode": mode},
            },
            "spec": {"predictor": {"containers": [{"name": "kserve-container"}]}, **(spec or {})},
        }
        self._create(_SERVICES, body)
        self._call(
            "patch_namespaced_custom_object_status",
            _SERVICES,
            name,
            {"status": status or {"conditions": [{"type": "Ready", "status": "True"}]}},
        )

    def route(self, kind: str = "HTTPRoute", weights: tuple[int, int] = (80, 20)) -> None:
        """A route with a rule for testers and one that divides the rest."""
        stable, canary = weights
        divided = {
            "backendRefs": [
                {"name": f"{NAME}-predictor", "port": 80, "weight": stable},
                {"name": f"{NAME}-canary-predictor", "port": 80, "weight": canary},
            ]
        }
        body = {"metadata": {"name": f"{NAME}-split"}, "spec": {"rules": [TESTERS, divided]}}
        self._create(_ROUTES[kind], body)

    def routed_canary(self, weights: tuple[int, int] = (80, 20), ready: bool = True) -> None:
        """Both tracks of strategy `route`, over HTTP and gRPC."""
        self.service()
        condition = {"type": "Ready", "status": str(ready), "reason": "" if ready else "Pulling"}
        self.service(f"{NAME}-canary", status={"conditions": [condition]})
        self.route("HTTPRoute", weights)
        self.route("GRPCRoute", weights)

    def native_canary(self, percent: int = 20) -> None:
        """Strategy `native`, as the chart writes it."""
        entry = {"predictor": {"name": "next"}, "trafficPercent": percent}
        conditions = [
            {"type": "Ready", "status": "True"},
            {"type": "CanaryPredictorReady", "status": "True"},
        ]
        self.service(spec={"canary": [entry]}, status={"conditions": conditions})

    def revision_canary(self, percent: int = 20) -> None:
        """Strategy `revision`, with the status that Knative's revisions lead to."""
        predictor = {"containers": [{"name": "c"}], "canaryTrafficPercent": percent}
        revisions = {
            "latestCreatedRevision": f"{NAME}-predictor-00002",
            "latestReadyRevision": f"{NAME}-predictor-00002",
            "latestRolledoutRevision": f"{NAME}-predictor-00001",
        }
        self.service(
            spec={"predictor": predictor},
            status={
                "conditions": [{"type": "Ready", "status": "True"}],
                "components": {"predictor": revisions},
            },
            mode="Knative",
        )

    def read_service(self, name: str = NAME) -> dict[str, Any]:
        return self._call("get_namespaced_custom_object", _SERVICES, name)

    def read_rules(self, kind: str = "HTTPRoute") -> list[dict[str, Any]]:
        route = self._call("get_namespaced_custom_object", _ROUTES[kind], f"{NAME}-split")
        rules: list[dict[str, Any]] = route["spec"]["rules"]
        return rules

    def label_route(self, kind: str, value: str) -> None:
        """Write as another controller would, between a read and a write of the assistant."""
        body = {"metadata": {"labels": {"other-writer": value}}}
        self._call("patch_namespaced_custom_object", _ROUTES[kind], f"{NAME}-split", body)

    def _create(self, kind: tuple[str, str, str, str], body: dict[str, Any]) -> None:
        group, version, plural, name = kind
        full = {"apiVersion": f"{group}/{version}", "kind": name, **body}
        self.server.objects.create_namespaced_custom_object(group, version, self.name, plural, full)

    def _call(
        self, method: str, kind: tuple[str, str, str, str], name: str, *body: Any
    ) -> dict[str, Any]:
        call = getattr(self.server.objects, method)
        answer: dict[str, Any] = call(kind[0], kind[1], self.name, kind[2], name, *body)
        return answer
