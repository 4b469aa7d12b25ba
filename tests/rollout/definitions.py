"""The parts of KServe's and Gateway API's definitions that the assistant reads and writes."""

from __future__ import annotations

from typing import Any

NEEDLESS_ADMISSION = (
    "NamespaceLifecycle",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionWebhook",
    "MutatingAdmissionPolicy",
    "ValidatingAdmissionPolicy",
)

_ANYTHING: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_PERCENT = {"type": "integer", "format": "int32", "minimum": 0, "maximum": 100}


def _list_of(properties: dict[str, Any]) -> dict[str, Any]:
    item = {**_ANYTHING, "properties": properties}
    return {"type": "array", "x-kubernetes-list-type": "atomic", "items": item}


def _definition(
    group: str, version: str, kind: str, plural: str, spec: dict[str, Any]
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"spec": {**_ANYTHING, "properties": spec}, "status": _ANYTHING},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # The API server asks for this on groups below k8s.io; others ignore it.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


_WEIGHT = {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000_000, "default": 1}
_RULES = {"rules": _list_of({"backendRefs": _list_of({"weight": _WEIGHT})})}

ALL = (
    _definition(
        "serving.kserve.io",
        "v1beta1",
        "InferenceService",
        "inferenceservices",
        {
            "predictor": {**_ANYTHING, "properties": {"canaryTrafficPercent": _PERCENT}},
            "canary": _list_of({"trafficPercent": _PERCENT, "predictor": _ANYTHING}),
        },
    ),
    _definition("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", _RULES),
    _definition("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes", _RULES),
)
