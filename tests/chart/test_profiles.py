"""Every scenario in ci/ gives objects Kubernetes takes, and settings the predictor takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest

from predictor.settings import load_settings
from tests.chart.rendering import (
    CHART,
    NAME,
    NAMESPACE,
    PROFILES,
    ROOT,
    Object,
    Rendered,
    env,
    only_container,
    profile,
    render_exactly,
)

# The oldest that Chart.yaml admits, and the newest there is a schema for.
KUBERNETES = ("1.29", kubernetes_validate.latest_version())
CUSTOM = {
    "GRPCRoute",
    "HTTPRoute",
    "InferenceService",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
}


@pytest.fixture(scope="module", params=PROFILES)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render_exactly(profile(request.param))


def containers(rendered: Rendered) -> list[Object]:
    predictors = [service["spec"]["predictor"] for service in rendered.all("InferenceService")]
    for service in rendered.all("InferenceService"):
        predictors += [canary["predictor"] for canary in service["spec"].get("canary", [])]
    return [only_container(predictor) for predictor in predictors]


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_fit_the_schemas_of_kubernetes(rendered: Rendered, version: str) -> None:
    checked = 0
    for document in rendered.objects:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked


def test_pods_fit_the_schema_of_kubernetes(rendered: Rendered) -> None:
    for container in containers(rendered):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x"},
            "spec": {"containers": [container]},
        }
        kubernetes_validate.validate(pod, KUBERNETES[0], strict=True)


def test_the_predictor_accepts_its_settings(rendered: Rendered, tmp_path: Path) -> None:
    """`python -m predictor check`, with the environment and files the container would have."""
    for index, container in enumerate(containers(rendered)):
        variables = {
            name: value for name, value in env(container).items() if name.startswith("REALFAKE_")
        }
        place = tmp_path / str(index)
        place.mkdir()
        if "REALFAKE_CONFIG_FILE" in variables:
            (mount,) = (m for m in container["volumeMounts"] if m["name"] == "config")
            assert variables["REALFAKE_CONFIG_FILE"] == f"{mount['mountPath']}/settings.yaml"
            file = place / "settings.yaml"
            file.write_text(
                rendered.one("ConfigMap", config_of(rendered, index))["data"]["settings.yaml"]
            )
            variables["REALFAKE_CONFIG_FILE"] = str(file)
        done = subprocess.run(
            [sys.executable, "-m", "predictor", "check", "--json"],
            cwd=place,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def config_of(rendered: Rendered, index: int) -> str:
    """The ConfigMap that the n-th container mounts."""
    predictors = [service["spec"]["predictor"] for service in rendered.all("InferenceService")]
    for service in rendered.all("InferenceService"):
        predictors += [canary["predictor"] for canary in service["spec"].get("canary", [])]
    (volume,) = (v for v in predictors[index]["volumes"] if v["name"] == "config")
    name = volume["configMap"]["name"]
    assert isinstance(name, str)
    return name


def test_every_container_is_restricted(rendered: Rendered) -> None:
    """Pod Security `restricted`, and more: a root file system that cannot be written."""
    everything = containers(rendered)
    everything += [c for pod in rendered.all("Pod") for c in pod["spec"]["containers"]]
    for container in everything:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}


def test_no_pod_gets_a_token_of_the_api_server(rendered: Rendered) -> None:
    specs = [service["spec"]["predictor"] for service in rendered.all("InferenceService")]
    for spec in specs + [pod["spec"] for pod in rendered.all("Pod")]:
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
    for account in rendered.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_object_has_one_name_and_the_release_namespace(rendered: Rendered) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in rendered.objects]
    assert len(names) == len(set(names))
    for document in rendered.objects:
        assert document["metadata"]["namespace"] == NAMESPACE


@pytest.mark.parametrize("name", PROFILES)
def test_helm_lint_strict_has_nothing_to_say(name: str) -> None:
    report = helm_python.lint(CHART, profile(name), strict=True, namespace=NAMESPACE)
    above_info = [message for message in report["messages"] if message["severity"] > 1]
    assert (report["errors"], above_info) == ([], [])


def test_a_number_that_yaml_would_write_as_a_float_stays_an_integer(tmp_path: Path) -> None:
    """Helm reads 33554432 as a float, which YAML writes as 3.3554432e+07: no integer any more."""
    rendered = render_exactly(profile("gpu"))
    file = tmp_path / "settings.yaml"
    file.write_text(rendered.one("ConfigMap", f"{NAME}-config")["data"]["settings.yaml"])
    assert "e+" not in file.read_text()
    loaded = load_settings([], {"REALFAKE_CONFIG_FILE": str(file)})
    assert loaded.limits.max_request_bytes == 33554432
    assert loaded.limits.max_json_values == 1_000_000
    assert loaded.server.drain_timeout_s == 32.5
