"""What the cluster tests do to a cluster: helm, objects, and programs that run inside it."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.server.process import ROOT, eventually

CHART = ROOT / "charts" / "realfake"
NAME = "detector"
KEYS = "detector-keys"
READY_LIMIT_S = 900.0
_SERVICES = ("serving.kserve.io", "v1beta1", "inferenceservices")
# The client's configuration is the part of it that has no types.
_config: Any = config


class Cluster:
    """One new namespace of the cluster that KUBECONFIG names."""

    def __init__(self) -> None:
        _config.load_kube_config(os.environ["KUBECONFIG"])
        # Any: its types refuse plain dictionaries, which it accepts.
        core: Any = client.CoreV1Api()
        self.core = core
        self.custom: Any = client.CustomObjectsApi()
        self.namespace = f"realfake-test-{uuid.uuid4().hex[:6]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.namespace, "labels": labels}
        self.core.create_namespace({"metadata": metadata})

    def remove(self) -> None:
        self.core.delete_namespace(self.namespace)

    def helm(self, *args: str) -> str:
        """Run helm in the namespace; a failure is the test's, with what helm said."""
        done = subprocess.run(
            ["helm", *args, "--namespace", self.namespace],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=READY_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def upgrade(self, values: Mapping[str, Any], directory: Path) -> None:
        """Install or upgrade with exactly these values, and wait until KServe says ready."""
        file = directory / f"values-{uuid.uuid4().hex[:6]}.json"
        file.write_text(json.dumps(values))
        self.helm("upgrade", "--install", NAME, str(CHART), "--reset-values", "--values", str(file))
        self.wait_ready(NAME)

    def service(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.custom.get_namespaced_custom_object(
                *_SERVICES[:2], self.namespace, _SERVICES[2], name
            )
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    def wait_ready(self, name: str) -> None:
        """KServe's Ready for the newest generation, not for the one before an upgrade."""

        def ready() -> bool | None:
            service = self.service(name)
            if service is None:
                return None
            status = service.get("status", {})
            if status.get("observedGeneration") != service["metadata"]["generation"]:
                return None
            conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
            return conditions.get("Ready") == "True" or None

        eventually(ready, READY_LIMIT_S, f"InferenceService {name}")

    def write_key(self, key_id: str, key: str) -> None:
        """Replace the Secret of keys by one that holds only this key."""
        secret = {"metadata": {"name": KEYS}, "stringData": {key_id: key}}
        try:
            self.core.delete_namespaced_secret(KEYS, self.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
        self.core.create_namespaced_secret(self.namespace, secret)

    def pods(self, service: str = NAME) -> list[Any]:
        """The predictor's pods that are not on their way out."""
        selector = f"serving.kserve.io/inferenceservice={service},component=predictor"
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None]

    def rules(self) -> list[dict[str, Any]]:
        """The rules of the chart's own HTTPRoute."""
        route = self.custom.get_namespaced_custom_object(
            "gateway.networking.k8s.io", "v1", self.namespace, "httproutes", f"{NAME}-http"
        )
        rules: list[dict[str, Any]] = route["spec"]["rules"]
        return rules

    def leftovers(self) -> list[str]:
        """What is still in the namespace that a fresh one does not have."""
        kinds = {
            "pods": self.core.list_namespaced_pod,
            "services": self.core.list_namespaced_service,
            "configmaps": self.core.list_namespaced_config_map,
            "secrets": self.core.list_namespaced_secret,
            "serviceaccounts": self.core.list_namespaced_service_account,
            "deployments": client.AppsV1Api().list_namespaced_deployment,
            "networkpolicies": client.NetworkingV1Api().list_namespaced_network_policy,
            "poddisruptionbudgets": client.PolicyV1Api().list_namespaced_pod_disruption_budget,
        }
        expected = {"configmaps/kube-root-ca.crt", "serviceaccounts/default", f"secrets/{KEYS}"}
        found: set[str] = set()
        for kind, every in kinds.items():
            found |= {f"{kind}/{one.metadata.name}" for one in every(self.namespace).items}
        if self.service(NAME) is not None:
            found.add(f"inferenceservices/{NAME}")
        return sorted(found - expected)
