"""What cannot work is refused when it is rendered, with the fix; nothing else is."""

from __future__ import annotations

import re
from typing import Any

import helm_python
import pytest

from predictor.settings import Settings
from tests.chart.rendering import CHART, KNATIVE, LEAST, ROUTE, merged, render, render_exactly

DIGEST = "sha256:" + "0" * 64
STORED = {"model": {"storageUri": "s3://models/realfake"}}
NEWER = {"canary": {"enabled": True, "image": {"tag": "0.2.0"}}}
NATIVE = merged(
    STORED,
    NEWER,
    {"canary": {"strategy": "native"}, "kserve": {"version": "0.21.0", "gatewayApi": True}},
)
KEDA = {"autoscaling": {"class": "keda", "keda": {"serverAddress": "http://prometheus:9090"}}}

# What the message must say, and values that are wrong in that one way.
CASES: dict[str, dict[str, Any]] = {
    'name "1st" must be lower case': {"nameOverride": "1st"},
    'name "a.b" must be lower case': {"nameOverride": "a.b"},
    "have 53 characters together, and KServe's host name has room for 52": {
        "nameOverride": "a" * 47
    },
    "have 46 characters together, and KServe's host name has room for 45": merged(
        ROUTE, NEWER, {"nameOverride": "a" * 40}
    ),
    "is too long for KServe's label app": {"nameOverride": "a" * 49},
    "image.repository is empty": {"image": {"repository": ""}},
    "kserve.version 0.15.2 does not know deploymentMode Standard": {
        "kserve": {"version": "0.15.2"}
    },
    "image.repository registry.example.com:5000/realfake:0.1.0 has a tag or a digest in it": {
        "image": {"repository": "registry.example.com:5000/realfake:0.1.0"}
    },
    "canary.image.repository registry.example.com/realfake@sha256:1 has a tag": merged(
        ROUTE,
        NEWER,
        {"canary": {"image": {"repository": "registry.example.com/realfake@sha256:1"}}},
    ),
    "serviceAccount.annotations and serviceAccount.secrets are for": {
        "serviceAccount": {"create": False, "annotations": {"eks.amazonaws.com/role-arn": "arn"}}
    },
    "podAnnotations: prometheus.io/scrape is written by the chart": {
        "metrics": {"podAnnotations": True},
        "podAnnotations": {"prometheus.io/scrape": "false"},
    },
    "podAnnotations: serving.knative.dev/progress-deadline is written": merged(
        KNATIVE, {"podAnnotations": {"serving.knative.dev/progress-deadline": "60s"}}
    ),
    # What a promotion by hand leaves, where the old image was pinned: it would go back to it.
    "image.tag and image.digest are both set": {"image": {"tag": "0.2.0", "digest": DIGEST}},
    "canary.image.tag and canary.image.digest are both set": merged(
        ROUTE, NEWER, {"canary": {"image": {"digest": DIGEST}}}
    ),
    "config.server.host keeps the ports inside the pod": {
        "config": {"server": {"host": "127.0.0.1"}}
    },
    "config.model.path is not below /mnt/models": merged(
        STORED, {"config": {"model": {"path": "/opt/bundle"}}}
    ),
    "canary.model.storageUri is put at /mnt/models": merged(
        ROUTE,
        {
            "config": {"model": {"path": "/opt/bundle"}},
            "canary": {"enabled": True, "model": {"storageUri": "s3://models/v2"}},
        },
    ),
    "model.storageSecret has nothing to unlock": {"model": {"storageSecret": "s3"}},
    "drained; raise autoscaling.minReplicas, or use": {
        "autoscaling": {"minReplicas": 1},
        "podDisruptionBudget": {"minAvailable": 1},
    },
    # Stable has replicas enough.
    "drained; raise canary.minReplicas, or use": merged(
        ROUTE,
        NEWER,
        {"autoscaling": {"minReplicas": 4}, "podDisruptionBudget": {"minAvailable": 2}},
    ),
    "drained; raise podDisruptionBudget.maxUnavailable, or use": {
        "podDisruptionBudget": {"maxUnavailable": 0}
    },
    "podDisruptionBudget.minAvailable and maxUnavailable are both null": {
        "podDisruptionBudget": {"maxUnavailable": None}
    },
    "alerts.enabled needs metrics.enabled": {
        "alerts": {"enabled": True},
        "metrics": {"enabled": False},
    },
    "alerts.disabled: there is no alert RealfakeShedding;": {
        "alerts": {"disabled": ["RealfakeShedding"]}
    },
    "dashboards.enabled needs metrics.enabled": {
        "dashboards": {"enabled": True},
        "metrics": {"enabled": False},
    },
    "metrics.monitor.enabled needs metrics.enabled": {
        "metrics": {"enabled": False, "monitor": {"enabled": True}}
    },
    "no API keys: set auth.existingSecret": {"auth": {"existingSecret": ""}},
    "auth.existingSecret and auth.keys are both set": {"auth": {"keys": {"app": DIGEST}}},
    "auth.mode is none, so the keys would be ignored": {"auth": {"mode": "none"}},
    "smokeTest.apiKey needs both": {"smokeTest": {"apiKey": {"existingSecret": "key"}}},
    "labels: helm.sh/chart would replace every pod": {"labels": {"helm.sh/chart": "x"}},
    "podLabels: app.kubernetes.io/version would replace": {
        "podLabels": {"app.kubernetes.io/version": "1"}
    },
    "labels: component is set by KServe": {"labels": {"component": "web"}},
    "annotations: serving.kserve.io/deploymentMode has a value": {
        "annotations": {"serving.kserve.io/deploymentMode": "Knative"}
    },
    "enable-prometheus-scraping points Prometheus at a proxy": {
        "annotations": {"serving.kserve.io/enable-prometheus-scraping": "true"}
    },
    "resources.limits.cpu is missing, and KServe would make it 1": {
        "resources": {"limits": {"cpu": None}}
    },
    "resources.requests.memory is missing, and KServe would make it 2Gi": {
        "resources": {"requests": {"memory": None}}
    },
    "resources.limits: nvidia.com/gpu; set gpu.enabled": {
        "resources": {"limits": {"nvidia.com/gpu": "1"}}
    },
    "model.device cuda needs a GPU in the pod's limits": {"config": {"model": {"device": "cuda"}}},
    "model.device cpu leaves the GPU": {
        "gpu": {"enabled": True},
        "config": {"model": {"device": "cpu"}},
    },
    "model.device cuda:1: a pod has one GPU": {
        "gpu": {"enabled": True},
        "config": {"model": {"device": "cuda:1"}},
    },
    "extraEnv: KServe refuses PYTHONPATH": {"extraEnv": [{"name": "PYTHONPATH", "value": "/x"}]},
    "extraEnv: STORAGE_URI is set by the chart": {
        "extraEnv": [{"name": "STORAGE_URI", "value": "s3://x"}]
    },
    "extraEnv: REALFAKE_SERVER__HOTS is no setting": {
        "extraEnv": [{"name": "REALFAKE_SERVER__HOTS", "value": "::"}]
    },
    "extraObjects: KServe deletes a Service that has both labels": {
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": "metrics",
                    "labels": {
                        "serving.kserve.io/inferenceservice": "demo",
                        "component": "predictor",
                    },
                },
            }
        ]
    },
    "extraObjects: KServe overwrites a HorizontalPodAutoscaler named demo-predictor": {
        "extraObjects": [
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "demo-predictor"},
            }
        ]
    },
    "autoscaling.minReplicas is above maxReplicas": {
        "autoscaling": {"class": "hpa", "minReplicas": 5}
    },
    "autoscaling.minReplicas: 0 in Standard mode": {"autoscaling": {"minReplicas": 0}},
    "autoscaling.class hpa has nothing to scale on": {
        "autoscaling": {"class": "hpa", "hpa": {"cpu": None}}
    },
    "autoscaling.keda.serverAddress is empty": {"autoscaling": {"class": "keda"}},
    "autoscaling.keda needs both authModes and authentication": merged(
        KEDA, {"autoscaling": {"keda": {"authModes": "bearer"}}}
    ),
    "autoscaling.keda scales on the predictor's metrics": merged(
        KEDA, {"metrics": {"enabled": False}}
    ),
    "autoscaling.class keda: Knative scales by itself": merged(KNATIVE, KEDA),
    "route.enabled: Knative has its own routes": merged(KNATIVE, ROUTE),
    "metrics.podAnnotations: Knative declares one port": merged(
        KNATIVE, {"metrics": {"podAnnotations": True}}
    ),
    "need a revision timeout of 700 seconds": merged(
        KNATIVE, {"config": {"limits": {"max_deadline_s": 700}}}
    ),
    "nothing differs from stable": merged(ROUTE, {"canary": {"enabled": True}}),
    "canary.strategy route works in Standard mode only": merged(
        KNATIVE, NEWER, {"canary": {"strategy": "route"}}
    ),
    "canary.strategy revision sets canaryTrafficPercent, which Standard mode ignores": merged(
        NEWER, {"canary": {"strategy": "revision"}}
    ),
    "canary.strategy route splits the chart's own route": NEWER,
    "canary.minReplicas is 0, so its share of requests would fail": merged(
        ROUTE, NEWER, {"canary": {"minReplicas": 0, "weight": 10}}
    ),
    "canary.minReplicas is above canary.maxReplicas": merged(
        ROUTE, NEWER, {"canary": {"minReplicas": 3}, "autoscaling": {"class": "hpa"}}
    ),
    "canary.strategy native needs KServe 0.21": merged(NATIVE, {"kserve": {"version": ""}}),
    "KServe 0.20.1 would deploy the canary and send it nothing": merged(
        NATIVE, {"kserve": {"version": "0.20.1"}}
    ),
    "canary.strategy native splits KServe's HTTPRoutes": merged(
        NATIVE, {"kserve": {"gatewayApi": False}}
    ),
    "route.enabled would go past the split": merged(NATIVE, ROUTE),
    "KServe wants a model in the stable predictor": merged(NATIVE, {"model": {"storageUri": ""}}),
    "canary.strategy native breaks with autoscaling.class keda": merged(NATIVE, KEDA),
    "canary.minReplicas must not exceed autoscaling.minReplicas": merged(
        NATIVE, {"canary": {"minReplicas": 3}}
    ),
    "route.enabled needs route.parentRefs": {"route": {"enabled": True}},
    "route.grpc.enabled needs route.grpc.hostnames": merged(
        ROUTE, {"route": {"grpc": {"enabled": True}}}
    ),
    "realfake.example.com is the HTTPRoute's too": merged(
        ROUTE, {"route": {"grpc": {"enabled": True, "hostnames": ["realfake.example.com"]}}}
    ),
}


# Settings that are added to the application later have their cases from then on.
if "tls" in Settings.model_fields:
    CASES["config.tls.client_ca_file refuses the kubelet's probes"] = {
        "config": {"tls": {"client_ca_file": "/tls/ca.crt"}}
    }
    CASES["config.tls.cert_file: the helm test speaks plain HTTP"] = {
        "config": {"tls": {"cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}}
    }
    CASES["- config.tls.cert_file: Knative's proxy speaks plain HTTP"] = merged(
        KNATIVE, {"config": {"tls": {"cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}}}
    )
    CASES["- canary.config.tls.cert_file: Knative's proxy speaks plain HTTP"] = merged(
        KNATIVE,
        NEWER,
        {"canary": {"config": {"tls": {"cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}}}},
    )


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render_exactly(merged(LEAST, values))
    return str(refused.value)


@pytest.mark.parametrize(("message", "values"), CASES.items(), ids=list(CASES))
def test_refuses(message: str, values: dict[str, Any]) -> None:
    assert message in refusal(values)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = refusal({"auth": {"existingSecret": ""}, "image": {"repository": ""}})
    assert "no API keys" in text
    assert "image.repository is empty" in text


def test_every_refusal_has_a_case() -> None:
    """A refusal that nobody has seen fire may be one that cannot."""
    source = "".join(path.read_text() for path in (CHART / "templates").glob("_problems*.tpl"))
    written = set(re.findall(r'append \$p \(?(?:printf )?"([^"]+)"', source))
    if "tls" not in Settings.model_fields:
        written = {text for text in written if not text.startswith("config.tls.")}
    assert len(written) > 40
    said = "\n".join(refusal(values) for values in CASES.values())
    for text in written:
        pattern = ".*".join(re.escape(part) for part in re.split("%[sdq]", text))
        assert re.search(f"- {pattern}$", said, re.MULTILINE), text


def test_the_least_values_are_not_refused() -> None:
    assert render().service["kind"] == "InferenceService"


def test_a_registry_with_a_port_and_annotations_of_ones_own_are_not_refused() -> None:
    values: dict[str, Any] = {
        "image": {"repository": "registry.example.com:5000/realfake"},
        "podAnnotations": {"prometheus.io/scrape": "false"},
    }
    rendered = render(values)
    assert rendered.container["image"] == "registry.example.com:5000/realfake:0.1.0"
    assert rendered.predictor["annotations"]["prometheus.io/scrape"] == "false"


@pytest.mark.parametrize("version", ["0.16.0", "v0.16.0-rc1", "0.16", "0.21.0", ""])
def test_a_kserve_that_knows_the_modes_is_not_refused(version: str) -> None:
    assert render({"kserve": {"version": version}}).service["kind"] == "InferenceService"


@pytest.mark.parametrize(
    ("budget", "replicas"),
    [
        ({"minAvailable": "50%"}, 2),
        ({"minAvailable": 1}, 2),
        ({"maxUnavailable": 1}, 1),
        ({"minAvailable": 0}, 1),
    ],
)
def test_a_budget_that_lets_a_pod_leave_is_not_refused(
    budget: dict[str, Any], replicas: int
) -> None:
    rendered = render({"podDisruptionBudget": budget, "autoscaling": {"minReplicas": replicas}})
    spec = rendered.one("PodDisruptionBudget")["spec"]
    assert spec.items() >= budget.items()


@pytest.mark.parametrize(
    "budget", [{"minAvailable": "51%"}, {"minAvailable": "100%"}, {"maxUnavailable": 0}]
)
def test_a_budget_that_rounds_up_to_all_pods_is_refused(budget: dict[str, Any]) -> None:
    assert "lets no pod leave" in refusal({"podDisruptionBudget": budget})
