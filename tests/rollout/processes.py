"""A Kubernetes API server for custom resources, on this machine's loopback."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from hack.ports import free_port
from tests.programs import Processes
from tests.rollout import certificates, definitions
from tests.server.process import eventually

START_LIMIT_S = 60.0
# The client's configuration is the part of it that has no types.
_untyped: Any = config


class ApiServer:
    """etcd and apiextensions-apiserver, with the definitions that the assistant meets."""

    def __init__(self, directory: Path) -> None:
        self._processes = Processes(directory)
        self.kubeconfig = directory / "kubeconfig"
        port = free_port()
        files = certificates.make(directory)
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(port, files)))
        etcd, peer = free_port(), free_port()
        self._processes.start(
            "etcd",
            *("--data-dir", str(directory / "etcd")),
            *("--listen-client-urls", f"http://127.0.0.1:{etcd}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{etcd}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync",
        )
        self._processes.start(
            "apiextensions-apiserver",
            *("--etcd-servers", f"http://127.0.0.1:{etcd}"),
            *("--bind-address", "127.0.0.1", "--secure-port", str(port)),
            *(
                "--tls-cert-file",
                files["server.crt"],
                "--tls-private-key-file",
                files["server.key"],
            ),
            *("--client-ca-file", files["ca.crt"], "--authentication-skip-lookup"),
            *("--kubeconfig", str(self.kubeconfig)),
            *("--authentication-kubeconfig", str(self.kubeconfig)),
            *("--authorization-kubeconfig", str(self.kubeconfig)),
            # These look at namespaces and webhooks, which this server does not have.
            *("--disable-admission-plugins", ",".join(definitions.NEEDLESS_ADMISSION)),
            "--enable-priority-and-fairness=false",
        )
        self.api: Any = _untyped.new_client_from_config(str(self.kubeconfig))
        eventually(self._define, START_LIMIT_S, f"an API server in {directory}")
        self.objects = client.CustomObjectsApi(self.api)

    def _define(self) -> bool | None:
        extensions: Any = client.ApiextensionsV1Api(self.api)
        try:
            known = {
                one.metadata.name: one for one in extensions.list_custom_resource_definition().items
            }
            for wanted in definitions.ALL:
                if wanted["metadata"]["name"] not in known:
                    extensions.create_custom_resource_definition(wanted)
        except Exception:  # not listening yet, or not ready to create
            return None
        established = [
            condition.type == "Established" and condition.status == "True"
            for one in known.values()
            for condition in one.status.conditions or ()
        ]
        return sum(established) == len(definitions.ALL) or None

    def stop(self) -> None:
        self.api.close()
        self._processes.stop()


def _kubeconfig(port: int, files: Mapping[str, str]) -> dict[str, Any]:
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": files["ca.crt"],
    }
    user = {"client-certificate": files["client.crt"], "client-key": files["client.key"]}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
