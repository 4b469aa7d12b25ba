"""What the KServe controller does that nobody would expect, one test each."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from predictor.settings import Settings
from tests.chart.rendering import (
    KNATIVE,
    NAME,
    PROFILES,
    ROOT,
    ROUTE,
    Object,
    Rendered,
    env,
    merged,
    only_container,
    profile,
    render,
    render_exactly,
    settings_file,
)

VERSIONED = ("helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")


@pytest.mark.parametrize("name", PROFILES)
def test_the_mode_is_always_annotated(name: str) -> None:
    """The cluster's default may be the other one, and CPU scaling is refused without the mode."""
    values = profile(name)
    for service in render_exactly(values).all("InferenceService"):
        mode = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        assert mode == values.get("deploymentMode", "Standard")


@pytest.mark.parametrize("name", PROFILES)
def test_nothing_that_a_chart_upgrade_changes_reaches_the_pods(name: str) -> None:
    """Labels and annotations of the InferenceService are copied to the pod template."""
    for service in render_exactly(profile(name)).all("InferenceService"):
        predictor = service["spec"]["predictor"]
        for labels in (service["metadata"]["labels"], predictor.get("labels", {})):
            assert not set(VERSIONED) & labels.keys()


@pytest.mark.parametrize("name", PROFILES)
def test_the_container_is_first_and_alone_under_the_name_kserve_overwrites(name: str) -> None:
    for service in render_exactly(profile(name)).all("InferenceService"):
        assert only_container(service["spec"]["predictor"])["name"] == "kserve-container"


@pytest.mark.parametrize("name", PROFILES)
def test_what_the_controller_would_default_is_written(name: str) -> None:
    """`containers` is an atomic list: what the webhook fills in shows as drift for ever."""
    for service in render_exactly(profile(name)).all("InferenceService"):
        container = only_container(service["spec"]["predictor"])
        for kind in ("requests", "limits"):
            assert container["resources"][kind].keys() >= {"cpu", "memory"}
        assert all(port["protocol"] == "TCP" for port in container["ports"])
        assert {"minReplicas", "maxReplicas"} <= service["spec"]["predictor"].keys()
        assert env(container)["PROTOCOL"] == "v2"
        assert "readinessProbe" in container


def test_standard_serves_http_first_so_that_it_becomes_port_80() -> None:
    ports = [(port["name"], port["containerPort"]) for port in render().container["ports"]]
    assert ports == [("http1", 8080), ("h2c-grpc", 8081), ("metrics", 8082)]


@pytest.mark.parametrize(("protocol", "port"), [("http", ("http1", 8080)), ("grpc", ("h2c", 8081))])
def test_knative_gets_exactly_one_port(protocol: str, port: tuple[str, int]) -> None:
    rendered = render(KNATIVE, {"knative": {"protocol": protocol}})
    assert [(p["name"], p["containerPort"]) for p in rendered.container["ports"]] == [port]


def test_knative_gets_no_field_that_it_refuses() -> None:
    rendered = render(KNATIVE)
    refused = {"terminationGracePeriodSeconds", "deploymentStrategy", "securityContext"}
    refused |= {"topologySpreadConstraints", "nodeSelector", "tolerations", "affinity"}
    assert not refused & rendered.predictor.keys()
    assert not {"lifecycle", "startupProbe"} & rendered.container.keys()


def test_knative_takes_the_grace_period_from_the_timeout() -> None:
    config = {"server": {"drain_delay_s": 20, "drain_timeout_s": 100}}
    assert render(KNATIVE, {"config": config}).predictor["timeout"] >= 120


def test_knative_revisions_keep_their_own_settings() -> None:
    """A ConfigMap would change below the revision that still has most of the traffic."""
    rendered = render(KNATIVE, {"config": {"batching": {"max_batch_size": 8}}})
    variables = env(rendered.container)
    assert variables["REALFAKE_BATCHING__MAX_BATCH_SIZE"] == "8"
    assert variables["REALFAKE_AUTH__KEYS_DIR"] == "/etc/realfake/keys"
    assert "REALFAKE_CONFIG_FILE" not in variables
    assert f"{NAME}-config" not in {o["metadata"]["name"] for o in rendered.all("ConfigMap")}


def test_a_setting_that_is_null_is_no_variable_of_a_revision() -> None:
    """`null` would be taken for its value: the pod of this canary would not start."""
    endpoint: Object = {"telemetry": {"otlp_endpoint": "http://collector:4318"}}
    nothing: Object = {"telemetry": {"otlp_endpoint": None}}
    canary = {"enabled": True, "image": {"tag": "0.2.0"}, "config": nothing}
    stable = env(render(KNATIVE, {"config": endpoint}).container)
    assert stable["REALFAKE_TELEMETRY__OTLP_ENDPOINT"] == "http://collector:4318"
    revision = env(render(KNATIVE, {"config": endpoint, "canary": canary}).container)
    assert "REALFAKE_TELEMETRY__OTLP_ENDPOINT" not in revision


@pytest.mark.parametrize("class_", ["hpa", "keda", "external", "none"])
def test_the_autoscaler_class_is_annotated_where_the_webhook_reads_it(class_: str) -> None:
    keda = {"serverAddress": "http://prometheus:9090"}
    rendered = render({"autoscaling": {"class": class_, "keda": keda}})
    annotations = rendered.service["metadata"]["annotations"]
    assert annotations["serving.kserve.io/autoscalerClass"] == class_
    assert "serving.kserve.io/autoscalerClass" not in rendered.predictor["annotations"]


def test_knative_has_no_autoscaler_class() -> None:
    """KServe refuses `kpa`, and the others are not Knative's."""
    annotations = render(KNATIVE).service["metadata"]["annotations"]
    assert "serving.kserve.io/autoscalerClass" not in annotations


def test_zero_replicas_survive() -> None:
    """A chart that asks `if .Values.minReplicas` drops the zero, and KServe makes it one."""
    assert render(KNATIVE, {"autoscaling": {"minReplicas": 0}}).predictor["minReplicas"] == 0


def test_zeros_in_settings_survive() -> None:
    """Helm's own merge takes 0 and false for nothing."""
    config = {"server": {"drain_delay_s": 0, "docs_enabled": False}, "batching": {"max_wait_ms": 0}}
    settings = settings_file(render({"config": config}))
    assert settings["server"] == config["server"] | {"metrics_port": 8082}
    assert settings["batching"] == config["batching"]


@pytest.mark.parametrize(("delay", "drain"), [(0, 1), (5, 25), (10, 32.5), (300, 3600)])
def test_the_grace_period_is_longer_than_the_drain(delay: float, drain: float) -> None:
    config = {"server": {"drain_delay_s": delay, "drain_timeout_s": drain}}
    grace = render({"config": config}).predictor["terminationGracePeriodSeconds"]
    assert math.ceil(delay + drain) < grace <= math.ceil(delay + drain) + 15


def test_the_grace_period_follows_the_defaults_of_the_settings() -> None:
    from predictor.settings import ServerSettings

    server = ServerSettings()
    grace = render().predictor["terminationGracePeriodSeconds"]
    assert grace > server.drain_delay_s + server.drain_timeout_s


def test_the_documented_room_to_exit_is_what_a_pod_gets() -> None:
    page = (ROOT / "docs" / "chart.md").read_text("utf-8")
    documented = re.search(r"`server\.drain_timeout_s` together, and\s(\d+) seconds to exit", page)
    assert documented
    config = {"server": {"drain_delay_s": 20, "drain_timeout_s": 100}}
    grace = render({"config": config}).predictor["terminationGracePeriodSeconds"]
    assert grace == 120 + int(documented[1])


def test_no_pre_stop_hook_delays_the_signal() -> None:
    """At SIGTERM the predictor reports not-ready and serves on; a hook would only postpone it."""
    assert "lifecycle" not in render().container


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_routes_that_are_honest_and_need_no_key(probe: str) -> None:
    """KServe's own default is a TCP probe, which is ready before the model is loaded."""
    path = "/v2/health/live" if probe == "livenessProbe" else "/v2/health/ready"
    get = render().container[probe]["httpGet"]
    assert get == {"path": path, "port": 8080, "scheme": "HTTP"}


@pytest.mark.skipif("tls" not in Settings.model_fields, reason="the predictor has no TLS yet")
@pytest.mark.parametrize(
    ("config", "scheme", "port"),
    [
        ({}, "HTTPS", 8080),
        ({"tls": {"client_ca_file": "/tls/ca"}, "server": {"health_port": 8083}}, "HTTP", 8083),
    ],
)
def test_probes_follow_tls(config: Object, scheme: str, port: int) -> None:
    """The kubelet takes any certificate and has none of its own."""
    tls = {"tls": {"cert_file": "/tls/crt", "key_file": "/tls/key"}}
    values = {"config": merged(tls, config), "smokeTest": {"enabled": False}}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = render(values).container[probe]["httpGet"]
        assert (get["scheme"], get["port"]) == (scheme, port)


def test_the_startup_budget_is_what_was_asked_for() -> None:
    probe = render({"probes": {"startupBudgetSeconds": 901}}).container["startupProbe"]
    assert 901 <= probe["failureThreshold"] * probe["periodSeconds"] < 906


def test_recreate_has_nothing_of_the_default_strategy() -> None:
    """Helm merges maps, and the API server refuses `rollingUpdate` beside `Recreate`."""
    strategy = render({"deploymentStrategy": {"type": "Recreate"}}).predictor["deploymentStrategy"]
    assert strategy == {"type": "Recreate"}


def test_hpa_has_only_resources_and_percentages() -> None:
    """A target over 100 is refused even for memory, and behavior is ignored."""
    scaling = render({"autoscaling": {"class": "hpa", "hpa": {"cpu": 60, "memory": 80}}}).predictor[
        "autoScaling"
    ]
    assert scaling.keys() == {"metrics"}
    found = {
        metric["resource"]["name"]: metric["resource"]["target"]
        for metric in scaling["metrics"]
        if metric["type"] == "Resource"
    }
    assert found == {
        "cpu": {"type": "Utilization", "averageUtilization": 60},
        "memory": {"type": "Utilization", "averageUtilization": 80},
    }


@pytest.mark.parametrize("trigger", ["in_flight", "queue_wait"])
def test_keda_queries_are_totals_of_this_service_alone(trigger: str) -> None:
    """KServe gives KEDA no metric type, so KEDA divides the value by the replicas."""
    keda = {"serverAddress": "http://prometheus:9090", "trigger": trigger, "target": 0.5}
    external = render({"autoscaling": {"class": "keda", "keda": keda}}).predictor["autoScaling"][
        "metrics"
    ][0]["external"]
    query = external["metric"]["query"]
    assert 'namespace="vision",pod=~"demo-predictor-.*"' in query
    assert query.startswith("sum(") or "* count(" in query
    assert query.endswith("or vector(0)")
    assert external["target"] == {"type": "Value", "value": "0.5"}
    assert external["metric"].keys() == {"backend", "serverAddress", "query"}


def test_keda_authenticates_where_kserve_reads_it() -> None:
    external = render_exactly(profile("gpu")).predictor["autoScaling"]["metrics"][0]["external"]
    assert external["authenticationRef"] == {
        "authModes": "bearer",
        "authenticationRef": {"name": "thanos"},
    }
    assert external["metric"]["namespace"] == "vision"


def test_a_fixed_number_of_replicas_is_fixed() -> None:
    predictor = render({"autoscaling": {"class": "none", "minReplicas": 3}}).predictor
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (3, 3)
    assert "autoScaling" not in predictor


def test_storage_is_a_literal_variable_of_the_container() -> None:
    """The webhook looks for STORAGE_URI itself; a `valueFrom` or another name fetches nothing."""
    container = render({"model": {"storageUri": "s3://models/v3"}}).container
    assert {"name": "STORAGE_URI", "value": "s3://models/v3"} in container["env"]


def test_a_model_in_the_image_asks_for_no_storage_and_no_agent() -> None:
    """Without storage, `predictor.model` would get the multi-model agent; `containers` does not."""
    rendered = render()
    assert "STORAGE_URI" not in env(rendered.container)
    assert "model" not in rendered.predictor


@pytest.mark.parametrize(
    "annotation", ["serving.kserve.io/secretName", "serving.kserve.io/storageSecretName"]
)
def test_the_storage_secret_is_named_as_the_cluster_wants(annotation: str) -> None:
    values: dict[str, Any] = {
        "model": {"storageUri": "s3://models/v3", "storageSecret": "s3"},
        "kserve": {"storageSecretAnnotation": annotation},
    }
    assert render(values).service["metadata"]["annotations"][annotation] == "s3"


def test_no_deployment_or_service_of_the_chart_can_be_taken_for_an_orphan() -> None:
    """KServe deletes those that carry its two labels under a name it does not expect."""
    for name in PROFILES:
        rendered = render_exactly(profile(name))
        assert not rendered.all("Service")
        assert not rendered.all("Deployment")


def test_the_service_name_fits_where_kserve_checks_it() -> None:
    """Exactly at the limit: 52 characters of name and namespace."""
    name = "a" * 46
    (service,) = render({"nameOverride": name}).all("InferenceService")
    assert len(f"{name}-predictor-vision") == 63
    assert service["metadata"]["name"] == name


def test_metrics_are_scraped_by_service_in_standard_mode() -> None:
    rendered = render(ROUTE, {"metrics": {"monitor": {"enabled": True}}})
    spec = rendered.one("ServiceMonitor")["spec"]
    assert spec["selector"]["matchLabels"] == {"component": "predictor"}
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] in {port["name"] for port in rendered.container["ports"]}
    annotations = rendered.service["metadata"]["annotations"]
    assert "serving.kserve.io/enable-prometheus-scraping" not in annotations


@pytest.mark.parametrize(
    ("service", "track"),
    [("demo-predictor", "stable"), ("demo-canary-predictor", "canary")],
)
def test_metrics_of_the_two_tracks_can_be_told_apart(service: str, track: str) -> None:
    """KServe gives the Services of both the same labels; Prometheus sees only their names."""
    rendered = render({"metrics": {"monitor": {"enabled": True}}})
    (endpoint,) = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    labels = {"__meta_kubernetes_service_name": service}
    for rule in endpoint["relabelings"]:
        # As Prometheus does it: an anchored match of the joined sources, anything by default.
        source = ";".join(labels[label] for label in rule.get("sourceLabels", []))
        if re.fullmatch(rule.get("regex", "(.*)"), source):
            labels[rule["targetLabel"]] = rule["replacement"]
    assert labels["track"] == track


def test_metrics_are_scraped_by_pod_in_knative_mode() -> None:
    """Knative renames the one declared port to `user-port`; metrics are on another."""
    rendered = render(KNATIVE, {"metrics": {"monitor": {"enabled": True}}})
    (endpoint,) = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "user-port"
    assert {"8082"} == {
        rule["replacement"].rpartition(":")[2]
        for rule in endpoint["relabelings"]
        if rule["targetLabel"] == "__address__"
    }


def test_large_numbers_of_a_pod_stay_integers() -> None:
    """OpenShift's uids, for one: 1.00071e+09 is none."""
    values = {"podSecurityContext": {"runAsUser": 1000710000}, "tmpSizeLimit": 2147483648}
    predictor = render(values).predictor
    assert predictor["securityContext"]["runAsUser"] == 1000710000
    (volume,) = (v for v in predictor["volumes"] if v["name"] == "tmp")
    assert volume["emptyDir"]["sizeLimit"] == 2147483648
    user = render(KNATIVE, values).container["securityContext"]["runAsUser"]
    assert isinstance(user, int)
    assert user == 1000710000


def test_settings_that_change_replace_the_pods() -> None:
    def checksum(rendered: Rendered) -> str:
        value = rendered.predictor["annotations"]["checksum/config"]
        assert isinstance(value, str)
        return value

    before = checksum(render())
    assert checksum(render()) == before
    assert checksum(render({"config": {"batching": {"max_batch_size": 8}}})) != before


def test_keys_are_mounted_as_a_directory_that_follows_the_secret() -> None:
    """A subPath mount is never updated; and no key may be in the environment."""
    container = render().container
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "keys")
    assert mount == {"name": "keys", "mountPath": "/etc/realfake/keys", "readOnly": True}
    assert settings_file(render())["auth"] == {"mode": "api_key", "keys_dir": "/etc/realfake/keys"}
