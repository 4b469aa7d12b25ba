"""One installation for the whole run: the steps of a release's life build on each other."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from predictor.security import api_keys
from tests.cluster.inside import Program
from tests.cluster.kubernetes import CHART, KEYS, NAME, Cluster


@dataclass
class Installation:
    """The release, its present values and key, and a place for files."""

    cluster: Cluster
    image: str
    directory: Path
    values: dict[str, Any]
    key: str = field(default_factory=api_keys.generate)

    @property
    def http(self) -> str:
        return f"http://{NAME}-predictor.{self.cluster.namespace}.svc"

    @property
    def grpc(self) -> str:
        return f"{NAME}-predictor.{self.cluster.namespace}.svc:8081"

    def run(self, program: str, *args: str) -> Program:
        return Program(self.cluster, self.image, self.key, program, *args)

    def upgrade(self, **values: Any) -> None:
        """Lay these over the present values, and upgrade."""
        self.values |= values
        self.cluster.upgrade(self.values, self.directory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def _missing() -> str | None:
    if not os.environ.get("KUBECONFIG"):
        return "no cluster: set KUBECONFIG (docs/cluster-tests.md)"
    if not os.environ.get("CLUSTER_IMAGE"):
        return "no image: set CLUSTER_IMAGE to the debug image that the cluster can pull"
    if shutil.which("helm") is None:
        return "helm is not on PATH"
    return None if CHART.is_dir() else "charts/realfake is not in this checkout"


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    missing = _missing()
    if missing:
        pytest.skip(missing)
    image = os.environ["CLUSTER_IMAGE"]
    repository, _, tag = image.rpartition(":")
    cluster = Cluster()
    one = Installation(
        cluster,
        image,
        tmp_path_factory.mktemp("cluster"),
        {
            "image": {"repository": repository, "tag": tag},
            "auth": {"existingSecret": KEYS},
            "autoscaling": {"minReplicas": 2},
            "resources": {
                "requests": {"cpu": "250m", "memory": "1Gi"},
                "limits": {"cpu": "2", "memory": "3Gi"},
            },
            "smokeTest": {"apiKey": {"existingSecret": KEYS, "key": "tests"}},
        },
    )
    cluster.write_key("tests", one.key)
    try:
        one.upgrade()
        yield one
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def gateway() -> dict[str, str]:
    """The Gateway that routes attach to, and how a pod reaches it."""
    named = os.environ.get("CLUSTER_GATEWAY", "")
    address = os.environ.get("CLUSTER_GATEWAY_URL", "")
    if not named or not address:
        pytest.skip("no gateway: set CLUSTER_GATEWAY=namespace/name and CLUSTER_GATEWAY_URL")
    namespace, _, name = named.partition("/")
    return {"namespace": namespace, "name": name, "url": address}


@pytest.fixture
def host() -> str:
    """A host name that no other route of the cluster has."""
    return f"{secrets.token_hex(4)}.realfake.test"
