"""The life of a release, in order: each step starts where the one before has left it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

from predictor.security import api_keys
from tests.cluster import inside
from tests.cluster.conftest import Installation
from tests.cluster.kubernetes import NAME
from tests.server.process import ROOT, eventually

# The kubelet refreshes a mounted Secret about once a minute.
ROTATION_LIMIT_S = 240.0


def test_helm_test_passes(installation: Installation) -> None:
    installation.cluster.helm("test", NAME)


def test_rest_answers_inside_the_cluster(installation: Installation) -> None:
    answer = installation.run(inside.REST, installation.http).result()
    assert answer == {"status": 200, "verdict": "real"}


def test_grpc_answers_inside_the_cluster(installation: Installation) -> None:
    answer = installation.run(inside.GRPC, installation.grpc).result()
    assert answer == {"outputs": ["fake_prob", "probabilities", "verdict"]}


def test_pods_have_no_token_and_a_read_only_root(installation: Installation) -> None:
    pods = installation.cluster.pods()
    assert len(pods) == 2
    for pod in pods:
        assert pod.spec.automount_service_account_token is False
        assert pod.spec.containers[0].name == "kserve-container"
        assert pod.spec.containers[0].security_context.read_only_root_filesystem is True


def test_a_rotated_key_is_followed_without_a_restart(installation: Installation) -> None:
    before = {pod.metadata.uid for pod in installation.cluster.pods()}
    old, installation.key = installation.key, api_keys.generate()
    installation.cluster.write_key("tests", installation.key)

    def rotated() -> bool | None:
        new = installation.run(inside.REST, installation.http).result()["status"]
        return new == 200 or None

    eventually(rotated, ROTATION_LIMIT_S, "the new key to be accepted")
    new, installation.key = installation.key, old
    refused = installation.run(inside.REST, installation.http).result()["status"]
    installation.key = new
    assert refused == 401
    assert {pod.metadata.uid for pod in installation.cluster.pods()} == before


def test_it_scales_to_the_replicas_that_values_name(installation: Installation) -> None:
    def count(wanted: int) -> bool | None:
        return len(installation.cluster.pods()) == wanted or None

    for replicas in (3, 2):
        installation.upgrade(autoscaling={"minReplicas": replicas})
        eventually(partial(count, replicas), 300, f"{replicas} replicas")


def test_an_upgrade_under_load_fails_no_request(installation: Installation) -> None:
    """Ready before warm, or gone before drained: either would show as a failed request here."""
    before = {pod.metadata.uid for pod in installation.cluster.pods()}
    load = installation.run(inside.LOAD, installation.http, "240")
    load.wait_started()
    installation.upgrade(config={"batching": {"max_batch_size": 16}})

    def replaced() -> bool | None:
        now = {pod.metadata.uid for pod in installation.cluster.pods()}
        return (len(now) == 2 and not now & before) or None

    eventually(replaced, 180, "every pod to be a new one")
    statuses = load.result()
    assert set(statuses) == {"200"}
    assert statuses["200"] > 100


def test_a_canary_gets_its_fifth_and_is_promoted(
    installation: Installation, gateway: dict[str, str], host: str
) -> None:
    parents = [{"name": gateway["name"], "namespace": gateway["namespace"]}]
    installation.upgrade(
        route={"enabled": True, "parentRefs": parents, "hostnames": [host]},
        canary={
            "enabled": True,
            "weight": 20,
            "config": {"batching": {"max_batch_size": 8}},
        },
    )
    installation.cluster.wait_ready(f"{NAME}-canary")
    assert [one["weight"] for one in installation.cluster.rules()[-1]["backendRefs"]] == [80, 20]

    load = installation.run(inside.LOAD, gateway["url"], "60", json.dumps({"Host": host}))
    statuses = load.result()
    served = {track: _requests(installation, track) for track in (NAME, f"{NAME}-canary")}
    assert set(statuses) <= {"200", "404"}, "404 only until the gateway knows the route"
    share = served[f"{NAME}-canary"] / statuses["200"]
    assert 0.1 < share < 0.3, served

    _assistant(installation, "promote", "--force", "--execute")
    installation.values = installation.values | {
        "canary": {"enabled": False},
        "config": {"batching": {"max_batch_size": 8}},
    }
    installation.cluster.wait_ready(NAME)
    eventually(
        lambda: installation.cluster.service(f"{NAME}-canary") is None or None, 300, "its removal"
    )
    assert len(installation.cluster.rules()[-1]["backendRefs"]) == 1


def test_a_canary_is_aborted_at_once(installation: Installation, gateway: dict[str, str]) -> None:
    canary = {"enabled": True, "weight": 50, "config": {"batching": {"max_batch_size": 4}}}
    installation.upgrade(canary=canary)
    printed = _assistant(installation, "abort", "--execute")
    assert "canary traffic is 0 % now" in printed
    installation.values["canary"] = {"enabled": False}
    assert len(installation.cluster.rules()[-1]["backendRefs"]) == 1


def test_helm_rolls_back(installation: Installation) -> None:
    before = installation.cluster.helm("get", "values", NAME, "--output", "json")
    installation.upgrade(config={"batching": {"max_batch_size": 2}})
    installation.cluster.helm("rollback", NAME)
    installation.cluster.wait_ready(NAME)
    assert installation.cluster.helm("get", "values", NAME, "--output", "json") == before
    assert installation.run(inside.REST, installation.http).result()["status"] == 200


def test_uninstalling_leaves_nothing(installation: Installation) -> None:
    installation.cluster.helm("uninstall", NAME, "--wait")
    eventually(
        lambda: installation.cluster.leftovers() == [] or None,
        300,
        "an empty namespace",
    )


def _requests(installation: Installation, service: str) -> int:
    """Inference requests in the access logs of a track's pods."""
    core, namespace = installation.cluster.core, installation.cluster.namespace
    logs = [
        core.read_namespaced_pod_log(pod.metadata.name, namespace, since_seconds=120)
        for pod in installation.cluster.pods(service)
    ]
    return sum(log.count("/v2/models/{model}/infer") for log in logs)


def _assistant(installation: Installation, *command: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hack.rollout", *command),
            *("--name", NAME, "--namespace", installation.cluster.namespace),
            *("--values-out", str(installation.directory / "rollout-values.yaml")),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout)
    return done.stdout
