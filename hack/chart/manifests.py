"""The raw manifests in manifests/, rendered from the chart, for those who install without helm.

One folder for each profile, ready for `kubectl apply -k`, and a ServingRuntime with a worked
InferenceService for teams that serve many models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).parents[2]
MANIFESTS: Final = ROOT / "manifests"
NAME: Final = "realfake"
HEADER: Final = "# Made by `make generate` from charts/realfake; do not edit.\n"
IMAGE: Final = "realfake.invalid/realfake"

# What each folder is for, and the values it is rendered from. `image` and the keys are the
# reader's own: the README says where.
_COMMON: Final[dict[str, Any]] = {
    "image": {"repository": IMAGE},
    "auth": {"existingSecret": "realfake-keys"},
    # It needs `helm test`.
    "smokeTest": {"enabled": False},
}
PROFILES: Final[dict[str, dict[str, Any]]] = {
    "cpu": {},
    "gpu": {
        "gpu": {"enabled": True},
        "resources": {
            "requests": {"cpu": "4", "memory": "8Gi"},
            "limits": {"cpu": "8", "memory": "16Gi"},
        },
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "knative": {"deploymentMode": "Knative", "autoscaling": {"minReplicas": 0}},
}
RUNTIME: Final = "serving-runtime"


def render(chart: Path) -> dict[Path, bytes]:
    """Every file, by its place."""
    made: dict[Path, bytes] = {}
    with helm_python.Chart.load(chart) as loaded:
        for profile, values in PROFILES.items():
            objects = _objects(loaded, {**_COMMON, **values})
            made |= _folder(profile, {_file_name(o): o for o in objects})
        # KServe fills the template of a runtime; keys are per namespace, as the runtime is.
        objects = _objects(loaded, {**_COMMON, **PROFILES["cpu"]})
    service = next(o for o in objects if o["kind"] == "InferenceService")
    made |= _folder(RUNTIME, {"runtime.yaml": _runtime(service), "example.yaml": _example(service)})
    return made


def gone(made: dict[Path, bytes]) -> list[Path]:
    """Files of an earlier profile or object."""
    folders = [MANIFESTS / name for name in (*PROFILES, RUNTIME)]
    return sorted(p for folder in folders for p in folder.glob("*.yaml") if p not in made)


def _objects(chart: helm_python.Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    rendered = chart.render(values, name=NAME, namespace=NAME)
    return [
        _without_helm(document)
        for path, text in sorted(rendered.items())
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def _without_helm(document: dict[str, Any]) -> dict[str, Any]:
    """Without helm's labels, and without the namespace, which kustomize sets."""
    metadata = document["metadata"]
    metadata.pop("namespace")
    for label in ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"):
        metadata["labels"].pop(label, None)
    return document


def _file_name(document: dict[str, Any]) -> str:
    return f"{document['kind'].lower()}.yaml"


def _folder(name: str, files: dict[str, dict[str, Any]]) -> dict[Path, bytes]:
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAME,
        "resources": sorted(files),
    }
    files = {**files, "kustomization.yaml": kustomization}
    return {
        MANIFESTS / name / file: (HEADER + yaml.safe_dump(content, sort_keys=False)).encode()
        for file, content in files.items()
    }


def _runtime(service: dict[str, Any]) -> dict[str, Any]:
    """The chart's container as a runtime that any InferenceService of the namespace may name."""
    predictor = service["spec"]["predictor"]
    (container,) = predictor["containers"]
    # Variables, not a ConfigMap: KServe fills {{.Name}} in for each model.
    container["env"] = [
        {"name": "REALFAKE_MODEL__NAME", "value": "{{.Name}}"},
        {"name": "REALFAKE_AUTH__KEYS_DIR", "value": "/etc/realfake/keys"},
    ]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] != "config"]
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": NAME, "labels": service["metadata"]["labels"]},
        "spec": {
            # Never chosen by accident: an InferenceService has to name it.
            "supportedModelFormats": [{"name": "timm", "version": "1", "autoSelect": False}],
            "protocolVersions": ["v1", "v2"],
            "multiModel": False,
            "containers": [container],
            "volumes": [v for v in predictor["volumes"] if v["name"] != "config"],
        },
    }


def _example(service: dict[str, Any]) -> dict[str, Any]:
    """One model on that runtime. What a runtime cannot give a pod is here."""
    predictor = service["spec"]["predictor"]
    annotations = service["metadata"]["annotations"]
    kept = (
        "minReplicas",
        "maxReplicas",
        "terminationGracePeriodSeconds",
        "securityContext",
        "automountServiceAccountToken",
        "enableServiceLinks",
    )
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "portraits", "annotations": annotations},
        "spec": {
            "predictor": {
                **{key: predictor[key] for key in kept},
                "model": {
                    "modelFormat": {"name": "timm"},
                    "runtime": NAME,
                    "protocolVersion": "v2",
                    # Never left out: without storage KServe adds its multi-model agent.
                    "storageUri": "pvc://models/portraits",
                },
            }
        },
    }
