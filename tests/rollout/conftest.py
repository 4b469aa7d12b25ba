"""What the rollout tests run against; each is skipped by name where its program is missing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.programs import program
from tests.prometheus import Prometheus
from tests.rollout.exporter import Exporter, Replica
from tests.rollout.objects import Namespace
from tests.rollout.processes import ApiServer

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


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    served = Exporter()
    yield served
    served.stop()


@pytest.fixture(scope="session")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, exporter: Exporter
) -> Iterator[Prometheus]:
    _need("prometheus", "apt-get install prometheus")
    # The exporter labels its pods itself.
    job = {
        "job_name": "predictor",
        "honor_labels": True,
        "static_configs": [{"targets": [exporter.address]}],
    }
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), [job])
    yield server
    server.stop()


@pytest.fixture
def place() -> str:
    """A namespace of no other test, in the cluster and in Prometheus."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def namespace(api_server: ApiServer, place: str) -> Namespace:
    return Namespace(api_server, place)


@pytest.fixture
def replicas(exporter: Exporter, place: str) -> dict[str, Replica]:
    """One replica of each track, without requests yet."""
    return {track: Replica(exporter, place, pod) for track, pod in PODS.items()}
