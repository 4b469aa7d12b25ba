"""The objects of a release in the cluster: InferenceServices and the routes to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from hack.rollout.errors import RolloutError

Json: TypeAlias = dict[str, Any]

_SERVICES: Final = ("serving.kserve.io", "v1beta1", "inferenceservices")
_ROUTES: Final = (
    ("gateway.networking.k8s.io", "v1", "httproutes"),
    ("gateway.networking.k8s.io", "v1", "grpcroutes"),
)
# The part of the client that has no types.
_config: Any = config
# Another writer (the controller, helm) may come between a read and a write.
_TRIES: Final = 5
_TIMEOUT_S: Final = 15


class Cluster:
    """One namespace of a cluster.

    Every method raises RolloutError when the API server refuses or cannot be reached.
    """

    def __init__(self, namespace: str, api: Any) -> None:
        self.namespace = namespace
        self._api = api
        self._objects = client.CustomObjectsApi(api)

    @classmethod
    def connect(cls, namespace: str, context: str | None = None) -> Cluster:
        """Use KUBECONFIG or ~/.kube/config, or inside a pod its own service account."""
        # Not config.load_config(): it reads KUBECONFIG at import and prints where it falls back.
        file = os.environ.get("KUBECONFIG")
        settings = client.Configuration()
        try:
            if not file and "KUBERNETES_SERVICE_HOST" in os.environ:
                _config.load_incluster_config(settings)
            else:
                _config.load_kube_config(file, context, settings)
        except config.ConfigException as error:
            raise RolloutError(f"no cluster: set KUBECONFIG or --context ({error})") from error
        return cls(namespace, client.ApiClient(settings))

    def close(self) -> None:
        self._api.close()

    def inference_service(self, name: str) -> Json | None:
        """One InferenceService, or None when there is none of that name."""
        return self._read(_SERVICES, name)

    def change_inference_service(self, name: str, change: Callable[[Json], bool]) -> bool:
        """Read, change and write one; `change` edits in place and says whether it did."""
        return self._change(_SERVICES, name, change)

    def routes_to(self, service: str) -> Iterator[tuple[str, Json]]:
        """Every HTTPRoute and GRPCRoute with a backend of that name, after its plural."""
        for kind in _ROUTES:
            try:
                found = self._call(
                    self._objects.list_namespaced_custom_object, *kind[:2], self.namespace, kind[2]
                )
            except _Absent:
                continue
            for route in found["items"]:
                if any(backend["name"] == service for backend in backends(route)):
                    yield kind[2], route

    def change_route(self, plural: str, name: str, change: Callable[[Json], bool]) -> bool:
        """The same as change_inference_service, for a route."""
        kind = next(kind for kind in _ROUTES if kind[2] == plural)
        return self._change(kind, name, change)

    def _read(self, kind: tuple[str, str, str], name: str) -> Json | None:
        group, version, plural = kind
        get = self._objects.get_namespaced_custom_object
        try:
            found: Json = self._call(get, group, version, self.namespace, plural, name)
        except _Absent:
            return None
        return found

    def _change(
        self, kind: tuple[str, str, str], name: str, change: Callable[[Json], bool]
    ) -> bool:
        group, version, plural = kind
        replace = self._objects.replace_namespaced_custom_object
        for _ in range(_TRIES):
            current = self._read(kind, name)
            if current is None:
                raise RolloutError(f"{plural}/{name} is gone from namespace {self.namespace}")
            if not change(current):
                return False
            try:
                # The resourceVersion that was read goes back with it: a newer object is a conflict.
                self._call(replace, group, version, self.namespace, plural, name, current)
            except _Conflict:
                continue
            return True
        raise RolloutError(
            f"{plural}/{name} keeps changing; somebody else is writing it, try again"
        )

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args, _request_timeout=_TIMEOUT_S)
        except ApiException as error:
            if error.status == 404:
                raise _Absent from error
            if error.status == 409:
                raise _Conflict from error
            if error.status in (401, 403):
                raise RolloutError(
                    f"the cluster refuses these credentials in namespace {self.namespace}:"
                    f" {error.reason}"
                ) from error
            raise RolloutError(f"the API server answered {error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RolloutError(
                f"the API server cannot be reached ({type(error).__name__}); is KUBECONFIG right?"
            ) from error


class _Absent(Exception):
    pass


class _Conflict(Exception):
    pass


def backends(route: Json) -> Iterator[Json]:
    """Every backendRef of a route, those of testers' rules included."""
    for rule in route["spec"].get("rules", ()):
        yield from rule.get("backendRefs", ())
