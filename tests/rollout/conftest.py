"""What the rollout tests run against; each is skipped by name where its program is missing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.rollout.exporter import Replica
from tests.rollout.objects import Namespace
from tests.rollout.processes import ApiServer, Prometheus, program

PODS = {
    "stable": "detector-predictor-7c9f-abcde",
    "canary": "detector-canary-predictor-5d4b-fghij",
}


def _need(name: str, how: str) -> None:
    if program(name) is None:
        pytest.skip(f"{name} is not here: {how}")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    _need("etcd", "apt-get install etcd-server")
    _need("apiextensions-apiserver", "make kube-api")
    server = ApiServer(tmp_path_factory.mktemp("kubernetes"))
    yield server
    server.stop()


@pytest.fixture
def namespace(api_server: ApiServer) -> Namespace:
    """Empty, and no other test's."""
    return Namespace(api_server, f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def replicas() -> Iterator[dict[str, Replica]]:
    """One replica of each track, with metrics and no requests yet."""
    running = {track: Replica(pod) for track, pod in PODS.items()}
    yield running
    for replica in running.values():
        replica.stop()


@pytest.fixture
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, replicas: dict[str, Replica], scraped_as: str
) -> Iterator[Prometheus]:
    _need("prometheus", "apt-get install prometheus")
    targets = {
        replica.address: {"namespace": scraped_as, "pod": replica.pod}
        for replica in replicas.values()
    }
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), targets)
    yield server
    server.stop()


@pytest.fixture
def scraped_as() -> str:
    """The namespace that Prometheus attaches; a test that has one of its own overrides it."""
    return "default"
