"""What runs around the predictor: policies, keys, accounts, alerts, notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    KNATIVE,
    LEAST,
    NAME,
    NAMESPACE,
    ROOT,
    ROUTE,
    Object,
    Rendered,
    chart_with,
    merged,
    render,
    render_exactly,
    settings_file,
)

DIGEST = "sha256:" + "2" * 64


def policy(rendered: Rendered) -> Object:
    spec: Object = rendered.one("NetworkPolicy", NAME)["spec"]
    return spec


def opened(rules: list[Object], side: str) -> dict[str, list[int]]:
    """Ports by the peers that a policy opens them to."""
    return {str(rule[side]): [port["port"] for port in rule["ports"]] for rule in rules}


def test_the_network_policy_denies_both_ways_but_what_is_named() -> None:
    spec = policy(render())
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert sorted(opened(spec["ingress"], "from").values()) == [
        [8080, 8081],
        [8080, 8081, 8082],
        [8082],
    ]
    assert list(opened(spec["egress"], "to").values()) == [[53, 53]]


def test_an_empty_list_of_clients_lets_nobody_in() -> None:
    """In a policy, a rule with an empty `from` is open to everybody."""
    values = {"networkPolicy": {"clients": [], "scrapers": []}, "smokeTest": {"enabled": False}}
    spec = policy(render(values))
    assert not spec["ingress"]


def test_no_rule_is_open_to_everybody() -> None:
    spec = policy(render({"model": {"storageUri": "s3://models/v3"}}))
    assert all(rule["from"] for rule in spec["ingress"])
    assert all(rule["to"] for rule in spec["egress"])


@pytest.mark.parametrize(
    ("uri", "fetched"),
    [
        ("s3://m", True),
        ("hf://m/v", True),
        ("https://m/v", True),
        ("pvc://m", False),
        ("oci://m", False),
        ("", False),
    ],
)
def test_storage_is_opened_only_for_what_the_pod_fetches(uri: str, fetched: bool) -> None:
    ports = opened(policy(render({"model": {"storageUri": uri}}))["egress"], "to").values()
    assert ([443] in ports) is fetched


@pytest.mark.parametrize(("peer", "port"), [("redis", 6379), ("otlp", 4318)])
def test_other_services_are_opened_by_name(peer: str, port: int) -> None:
    to = [{"podSelector": {"matchLabels": {"app": peer}}}]
    rules = policy(render({"networkPolicy": {peer: {"to": to}}}))["egress"]
    assert opened(rules, "to")[str(to)] == [port]


def test_dns_is_asked_where_its_pods_listen() -> None:
    """A policy is about pods, behind the Service's port 53."""
    rendered = render({"networkPolicy": {"dnsPorts": [5353]}})
    for name in (NAME, f"{NAME}-smoke"):
        rule = rendered.one("NetworkPolicy", name)["spec"]["egress"][0]
        assert rule["ports"] == [
            {"port": 5353, "protocol": "UDP"},
            {"port": 5353, "protocol": "TCP"},
        ]


def test_knative_traffic_comes_by_its_proxy() -> None:
    ports = opened(policy(render(KNATIVE))["ingress"], "from").values()
    assert any({8012, 8112} <= set(found) for found in ports)


def test_knatives_own_parts_come_in_whoever_the_clients_are() -> None:
    """The activator brings requests and probes 8012; the autoscaler reads 9090 of each pod."""
    gateway = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}]
    serving = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "knative-serving"}}}
    ]
    values = {"networkPolicy": {"clients": gateway}}
    ports = opened(policy(render(KNATIVE, values))["ingress"], "from")
    assert {8012, 8013, 8112, 9090} <= set(ports[str(serving)])
    assert {8012, 8013, 8112} <= set(ports[str(gateway)])
    assert str(serving) not in opened(policy(render(values))["ingress"], "from")


def test_the_smoke_test_is_let_through_both_policies() -> None:
    rendered = render()
    labels = rendered.one("Pod")["metadata"]["labels"]
    allowed = policy(rendered)["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= labels.items()
    mine = rendered.one("NetworkPolicy", f"{NAME}-smoke")["spec"]
    assert mine["podSelector"]["matchLabels"].items() <= labels.items()
    assert mine["egress"][-1]["to"][0]["podSelector"] == policy(rendered)["podSelector"]


def test_the_smoke_test_runs_where_the_predictor_may() -> None:
    """Where every node is tainted, it would wait for one until helm gives up."""
    place = {"nodeSelector": {"pool": "vision"}, "tolerations": [{"operator": "Exists"}]}
    assert render(place).one("Pod")["spec"].items() >= place.items()
    assert not place.keys() & render().one("Pod")["spec"].keys()


def test_the_smoke_test_leaves_nothing_behind_but_failures() -> None:
    """Hooks are not uninstalled with the release, so only the pod is one."""
    rendered = render()
    hooks = [o for o in rendered.objects if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    assert [o["kind"] for o in hooks] == ["Pod"]
    policy_of_hook = hooks[0]["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy_of_hook == "before-hook-creation,hook-succeeded"


def test_a_pod_that_never_becomes_ready_holds_no_node() -> None:
    """Kubernetes' default evicts none while too few are healthy: a bad release stops drains."""
    canary = {"canary": {"enabled": True, "image": {"tag": "0.2.0"}}}
    budgets = render(ROUTE, canary).all("PodDisruptionBudget")
    assert [budget["spec"]["unhealthyPodEvictionPolicy"] for budget in budgets] == [
        "AlwaysAllow",
        "AlwaysAllow",
    ]


def test_keys_of_the_chart_are_digests_in_one_secret() -> None:
    keys = {"mobile": DIGEST}
    rendered = render_exactly({"image": LEAST["image"], "auth": {"keys": keys}})
    secret = rendered.one("Secret")
    assert secret["stringData"] == keys
    (volume,) = (v for v in rendered.predictor["volumes"] if v["name"] == "keys")
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]


def test_a_secret_of_your_own_is_mounted_and_none_is_made() -> None:
    rendered = render()
    (volume,) = (v for v in rendered.predictor["volumes"] if v["name"] == "keys")
    assert volume["secret"]["secretName"] == "realfake-keys"
    assert not rendered.all("Secret")


def test_no_keys_are_mounted_when_nobody_is_asked_for_one() -> None:
    rendered = render_exactly({"image": LEAST["image"], "auth": {"mode": "none"}})
    assert "keys" not in {volume["name"] for volume in rendered.predictor["volumes"]}


@pytest.mark.parametrize(
    ("account", "used"),
    [
        ({}, NAME),
        ({"name": "mine"}, "mine"),
        ({"create": False}, "default"),
        ({"create": False, "name": "mine"}, "mine"),
    ],
)
def test_the_pod_runs_as_the_account_that_exists(account: dict[str, Any], used: str) -> None:
    rendered = render({"serviceAccount": account})
    assert rendered.predictor["serviceAccountName"] == used
    made = [o["metadata"]["name"] for o in rendered.all("ServiceAccount")]
    assert made == ([used] if account.get("create", True) else [])


def test_a_gpu_is_asked_for_as_request_and_limit_and_is_needed_to_start() -> None:
    rendered = render({"gpu": {"enabled": True, "resource": "nvidia.com/mig-1g.10gb"}})
    for kind in ("requests", "limits"):
        assert rendered.container["resources"][kind]["nvidia.com/mig-1g.10gb"] == "1"
    settings = rendered.one("ConfigMap", f"{NAME}-config")["data"]["settings.yaml"]
    assert yaml.safe_load(settings)["model"] == {"device": "cuda"}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"nodeSelector": {"a": "b"}}, "nodeSelector"),
        ({"tolerations": [{"key": "a", "operator": "Exists"}]}, "tolerations"),
        ({"affinity": {"nodeAffinity": {}}}, "affinity"),
        ({"priorityClassName": "high"}, "priorityClassName"),
        ({"runtimeClassName": "nvidia"}, "runtimeClassName"),
        ({"podLabels": {"team": "vision"}}, "labels"),
    ],
)
def test_placement_reaches_the_predictor(value: dict[str, Any], field: str) -> None:
    assert render(value).predictor[field] == next(iter(value.values()))


def test_extra_pieces_reach_the_container() -> None:
    volume = {"name": "tls", "secret": {"secretName": "tls"}}
    mount = {"name": "tls", "mountPath": "/tls", "readOnly": True}
    variable = {"name": "OMP_NUM_THREADS", "value": "2"}
    rendered = render(
        {"extraVolumes": [volume], "extraVolumeMounts": [mount], "extraEnv": [variable]}
    )
    assert volume in rendered.predictor["volumes"]
    assert mount in rendered.container["volumeMounts"]
    assert variable in rendered.container["env"]


ALERTS = [
    group
    for file in sorted((ROOT / "manifests" / "alerts").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text())["groups"]
]


def alert_groups(**alerts: Any) -> list[Object]:
    rendered = render({"alerts": {"enabled": True, **alerts}})
    groups: list[Object] = rendered.one("PrometheusRule")["spec"]["groups"]
    return groups


def test_no_alert_rules_are_installed_unless_asked_for() -> None:
    """A cluster without the Prometheus operator does not know the kind."""
    assert not render().all("PrometheusRule")


def test_alert_rules_are_passed_on_as_they_are() -> None:
    """Prometheus' templates are braces as well, and helm would replace them by nothing."""
    assert alert_groups() == ALERTS
    assert "{{ $labels.job }}" in str(ALERTS)


def test_alert_rules_get_the_labels_that_prometheus_selects_by() -> None:
    rendered = render({"alerts": {"enabled": True, "labels": {"release": "prometheus"}}})
    assert rendered.one("PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"


def test_single_alerts_can_be_left_out() -> None:
    without = alert_groups(disabled=["RealfakeScoreDrift", "RealfakeSheddingLoad"])
    left = [rule.get("alert") for group in without for rule in group["rules"]]
    every = [rule.get("alert") for group in ALERTS for rule in group["rules"]]
    assert left == [n for n in every if n not in {"RealfakeScoreDrift", "RealfakeSheddingLoad"}]
    # Its only rule is gone, and Prometheus' operator refuses a group of none.
    assert "realfake-model.alerts" not in {group["name"] for group in without}


@pytest.mark.parametrize(
    "base", ["https://runbooks.example.com/r", "https://runbooks.example.com/r/"]
)
def test_alerts_link_to_where_the_runbooks_are_published(base: str) -> None:
    for group in alert_groups(runbookUrl=base):
        for rule in group["rules"]:
            if "alert" in rule:
                page = f"https://runbooks.example.com/r/{rule['alert']}.md"
                assert rule["annotations"]["runbook_url"] == page
                assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
            else:
                assert "annotations" not in rule


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({}, "image registry.example.com/realfake:0.1.0 is a tag"),
        ({}, "debug bundle detects nothing"),
        ({"autoscaling": {"minReplicas": 1}}, "one replica"),
        ({"model": {"storageUri": "hf://a/b"}}, "pin model.digest"),
        ({"model": {"storageUri": "oci://a/b:1"}}, "pin model.digest"),
        ({"model": {"storageUri": "s3://a/b"}}, "pin model.digest"),
        ({"networkPolicy": {"enabled": False}}, "no network policy"),
        ({"networkPolicy": {"clients": []}}, "nobody may send requests"),
        (
            {"config": {"telemetry": {"otlp_endpoint": "http://collector:4318"}}},
            "networkPolicy.otlp.to is empty",
        ),
        (
            {"config": {"rate_limit": {"redis_url_file": "/redis/url"}}},
            "networkPolicy.redis.to is empty",
        ),
        ({"gpu": {"enabled": True}, "autoscaling": {"class": "hpa"}}, "hardly sees a busy GPU"),
        (merged(KNATIVE, {"nodeSelector": {"a": "b"}}), "config-features allow them"),
    ],
)
def test_the_notes_warn(values: dict[str, Any], warning: str) -> None:
    assert warning in render(values).notes


TLS: Object = {
    "config": {"tls": {"cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}},
    "smokeTest": {"enabled": False},
}


def test_the_notes_ask_a_port_with_tls_by_tls() -> None:
    notes = render(TLS).notes
    assert f"URL=https://{NAME}-predictor.{NAMESPACE}.svc " in notes
    assert "--connect-to ::127.0.0.1:8080 --cacert ca.crt \\\n" in notes
    assert "http://" not in notes
    assert "--cacert" not in render().notes


def test_the_notes_say_what_a_gateway_needs_for_tls() -> None:
    """It speaks plain HTTP to a Service, and every request would be answered 502."""
    canary = {"canary": {"enabled": True, "image": {"tag": "0.2.0"}}}
    assert f"names Service {NAME}-predictor\n" in render(TLS, ROUTE).notes + "\n"
    both = render(TLS, ROUTE, canary).notes
    assert f"names Service {NAME}-predictor and {NAME}-canary-predictor" in both
    assert "BackendTLSPolicy" not in render(ROUTE).notes + render(TLS).notes


def test_pinned_and_replicated_is_nothing_to_warn_about() -> None:
    values = {
        "image": {"digest": DIGEST},
        "model": {"storageUri": f"oci://registry.example.com/m@{DIGEST}"},
    }
    assert "Warnings" not in render(values).notes


@pytest.mark.parametrize("known", [True, False])
def test_the_metrics_port_is_set_only_for_an_application_that_has_it(
    tmp_path: Path, known: bool
) -> None:
    """An unknown setting stops the predictor, so the chart asks the settings it was made from."""
    settings = json.loads((CHART / "files" / "settings.json").read_text())
    settings["server"].pop("metrics_port", None)
    if known:
        settings["server"]["metrics_port"] = 8082
    chart = chart_with(tmp_path, {"settings.json": json.dumps(settings)})
    rendered = render(chart=chart)
    assert ("metrics_port" in str(settings_file(rendered))) is known
    (test,) = rendered.one("Pod")["spec"]["containers"]
    assert any(argument.startswith("--metrics=") for argument in test["args"]) is known


def test_metrics_that_are_off_are_off_in_the_predictor() -> None:
    """Its own default is to open the port, for everybody where no policy keeps them out."""
    rendered = render({"metrics": {"enabled": False}})
    assert settings_file(rendered)["server"] == {"metrics_enabled": False}
