"""checkov finds nothing in what the chart renders that is not explained here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chart.rendering import PROFILES, Object, profile, render_exactly

# `make setup` gives it an environment of its own, because its pins contradict the product's.
CHECKOV: Final = Path(sys.prefix) / "checkov" / "bin" / "checkov"

# What may fail, where, and why.
EXPLAINED: Final[Mapping[str, tuple[str, str]]] = {
    "CKV_K8S_8": ("Pod", "the helm test runs once and ends; it has nothing to keep alive"),
    "CKV_K8S_9": ("Pod", "the helm test serves nobody"),
    "CKV_K8S_15": ("", "a digest needs no Always, and profiles without one say so in NOTES"),
    "CKV_K8S_43": ("", "profiles that pin no digest are warned about in NOTES"),
    "CKV_K8S_40": ("open", "that profile leaves the uid to the platform"),
    "CKV_K8S_29": ("knative", "Knative takes no pod context; the container has all of it"),
    "CKV2_K8S_6": ("chart-keys", "that profile turns the policy off"),
}


def as_deployment(service: Object) -> Object:
    """What KServe makes of an InferenceService, as far as checkov looks."""
    name = service["metadata"]["name"]
    labels = {
        "app": f"isvc.{name}-predictor",
        "serving.kserve.io/inferenceservice": name,
        "component": "predictor",
    }
    own = {"annotations", "labels", "autoScaling", "deploymentStrategy", "containerConcurrency"}
    own |= {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"}
    own |= {"canaryTrafficPercent"}
    spec = service["spec"]["predictor"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": service["metadata"]["namespace"]},
        "spec": {
            "selector": {"matchLabels": {"app": labels["app"]}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {key: value for key, value in spec.items() if key not in own},
            },
        },
    }


def failures(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [
            *(CHECKOV, "--directory", folder, "--framework", "kubernetes"),
            *("--skip-download", "--quiet", "--compact", "--soft-fail", "--output", "json"),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    # Nothing checked would be nothing failed.
    assert report["summary"]["passed"] > 1000
    found: list[dict[str, Any]] = report["results"]["failed_checks"]
    return found


def test_every_failure_is_explained(tmp_path: Path) -> None:
    for name in PROFILES:
        rendered = render_exactly(profile(name))
        deployments = [as_deployment(service) for service in rendered.all("InferenceService")]
        text = yaml.safe_dump_all([*rendered.objects, *deployments])
        (tmp_path / f"{name}.yaml").write_text(text)
    unexplained = []
    for failure in failures(tmp_path):
        where, _ = EXPLAINED.get(failure["check_id"], ("nowhere", ""))
        place = f"{failure['file_path']} {failure['resource']}"
        if where not in place:
            unexplained.append(f"{failure['check_id']} {failure['check_name']}: {place}")
    assert unexplained == []
