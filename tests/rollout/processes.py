"""A Kubernetes API server for custom resources, and a Prometheus, on this machine's loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from hack import prometheus
from tests.rollout import certificates, definitions
from tests.server.process import ROOT, eventually

START_LIMIT_S = 60.0
# The client's configuration is the part of it that has no types.
_untyped: Any = config


def program(name: str) -> str | None:
    """The path of a program on PATH, or of one that `make kube-api` built."""
    return shutil.which(name, path=f"{os.environ['PATH']}:{ROOT / '.run' / 'bin'}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Processes:
    """Child processes that end together; each writes its own log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *args: str) -> None:
        path = program(name)
        assert path is not None, name
        with (self.directory / f"{name}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen([path, *args], stdout=log, stderr=subprocess.STDOUT)
            )

    def stop(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()


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


class Prometheus(prometheus.Prometheus):
    """Scrapes one target ten times a second, and takes its labels as they are."""

    def __init__(self, directory: Path, target: str) -> None:
        job = {
            "job_name": "predictor",
            "honor_labels": True,
            "static_configs": [{"targets": [target]}],
        }
        times = {"scrape_interval": "100ms", "scrape_timeout": "100ms"}
        super().__init__(directory, {"global": times, "scrape_configs": [job]})

    def value(self, query: str) -> float:
        rows = self.query(query)
        return float(rows[0]["value"][1]) if rows else 0.0
