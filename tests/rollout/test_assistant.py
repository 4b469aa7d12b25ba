"""The assistant as a person runs it: what it says, its exit code, what it leaves behind."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.rollout.__main__ import main
from tests.prometheus import Prometheus as RealPrometheus
from tests.rollout.exporter import Replica
from tests.rollout.objects import NAME, Namespace
from tests.server.process import ROOT, eventually

VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example/realfake", "tag": "1.0.0", "pullPolicy": "Always"},
    "model": {"storageUri": "s3://models/detector-1"},
    "auth": {"existingSecret": "detector-keys"},
    "autoscaling": {"minReplicas": 0},
    "canary": {
        "enabled": True,
        "strategy": "route",
        "weight": 20,
        "image": {"tag": "1.1.0"},
        "model": {"storageUri": "s3://models/detector-2", "digest": ""},
    },
}
Assistant = Callable[..., "Done"]


@dataclass(frozen=True)
class Scraped:
    """A Prometheus and the replicas that it scrapes."""

    prometheus: RealPrometheus
    replicas: dict[str, Replica]
    place: str

    @property
    def url(self) -> str:
        return self.prometheus.url

    def serve(self, track: str, requests: int, errors: int = 0) -> None:
        """Traffic of a healthy version with so many errors in it, until Prometheus has it all."""
        query = f'sum(inference_requests_total{{namespace="{self.place}"}})'
        before = self.prometheus.value(query)
        self.replicas[track].observe(
            {"OK": requests - errors, "INTERNAL": errors},
            {"real": int(0.8 * requests), "fake": int(0.2 * requests)},
            {0.08: requests},
        )
        eventually(
            lambda: self.prometheus.value(query) == before + requests or None, 15, "the scrape"
        )


@pytest.fixture
def scraped(prometheus: RealPrometheus, replicas: dict[str, Replica], place: str) -> Scraped:
    return Scraped(prometheus, replicas, place)


@pytest.fixture
def helm(tmp_path: Path) -> Path:
    """A `helm` that answers with VALUES and writes down how it was called.

    The real one keeps releases in Secrets, which an API server for custom resources does not have.
    """
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "values.yaml").write_text(yaml.safe_dump(VALUES))
    script = directory / "helm"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{shlex.quote(str(directory))}/calls\n'
        f'[ "$1" != get ] || exec cat {shlex.quote(str(directory))}/values.yaml\n'
    )
    script.chmod(0o755)
    return directory


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str


@pytest.fixture
def assistant(
    namespace: Namespace,
    helm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Assistant:
    """Run one command in the namespace; its standard output and error in one text."""
    monkeypatch.setenv("KUBECONFIG", str(namespace.server.kubeconfig))
    monkeypatch.setenv("PATH", str(helm), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *args: str) -> Done:
        capsys.readouterr()
        code = main([command, "--name", NAME, "--namespace", namespace.name, *args])
        printed = capsys.readouterr()
        return Done(code, printed.out + printed.err)

    return run


def test_status_shows_both_tracks(assistant: Assistant, namespace: Namespace) -> None:
    namespace.routed_canary(ready=False)
    done = assistant("status")
    assert done.returncode == 0
    assert "canary by route" in done.stdout
    assert "80.0 %  ready" in done.stdout
    assert "20.0 %  not ready: Pulling" in done.stdout


@pytest.mark.parametrize(
    ("canary", "expected"),
    [
        ((2000, 0), (0, "decision: promote", "0 of 2000")),
        ((2000, 200), (4, "decision: abort", "200 of 2000")),
        ((100, 100), (3, "decision: hold", "canary has 100 of 500")),
    ],
)
def test_an_analysis_decides_by_its_exit_code(
    canary: tuple[int, int],
    expected: tuple[int, str, str],
    assistant: Assistant,
    namespace: Namespace,
    scraped: Scraped,
) -> None:
    namespace.routed_canary()
    scraped.serve("stable", 8000)
    scraped.serve("canary", *canary)
    done = assistant("analyse", "--prometheus", scraped.url)
    code, *said = expected
    assert done.returncode == code
    assert all(text in done.stdout for text in said), done.stdout


def test_watch_waits_for_evidence_and_aborts(
    assistant: Assistant,
    namespace: Namespace,
    scraped: Scraped,
) -> None:
    namespace.routed_canary()
    scraped.serve("stable", 8000)
    asked = ("--prometheus", scraped.url, "--interval", "0.2")
    undecided = assistant("watch", *asked, "--timeout", "0.5", "--abort")
    assert undecided.returncode == 3
    assert "canary has 0 of 500" in undecided.stdout
    assert namespace.read_rules()[1]["backendRefs"][1]["weight"] == 20

    scraped.serve("canary", 2000, errors=200)
    aborted = assistant("watch", *asked, "--timeout", "30", "--abort")
    assert aborted.returncode == 4, aborted.stdout
    assert namespace.read_rules()[1]["backendRefs"][1]["weight"] == 0


def test_a_promotion_makes_the_overrides_stables_own(
    assistant: Assistant,
    namespace: Namespace,
    helm: Path,
    scraped: Scraped,
    tmp_path: Path,
) -> None:
    namespace.routed_canary()
    scraped.serve("stable", 8000)
    scraped.serve("canary", 2000)
    done = assistant("promote", "--prometheus", scraped.url, "--execute", "--chart", "a-chart")
    assert done.returncode == 0, done.stdout
    assert yaml.safe_load((tmp_path / "rollout-values.yaml").read_text()) == {
        "image": {
            "repository": "registry.example/realfake",
            "tag": "1.1.0",
            "digest": "",
            "pullPolicy": "Always",
        },
        "model": {"storageUri": "s3://models/detector-2", "digest": ""},
        "auth": {"existingSecret": "detector-keys"},
        "autoscaling": {"minReplicas": 0},
        "canary": {"enabled": False, "strategy": "route"},
    }
    assert (tmp_path / "rollout-values.yaml").stat().st_mode & 0o077 == 0
    get, upgrade = (helm / "calls").read_text().splitlines()
    assert get.startswith(f"get values {NAME} --namespace {namespace.name}")
    assert upgrade == (
        f"upgrade {NAME} a-chart --namespace {namespace.name}"
        " --reset-values --values rollout-values.yaml --wait"
    )


def test_a_worse_canary_is_not_promoted(
    assistant: Assistant,
    namespace: Namespace,
    helm: Path,
    scraped: Scraped,
) -> None:
    namespace.routed_canary()
    scraped.serve("stable", 8000)
    scraped.serve("canary", 2000, errors=200)
    done = assistant("promote", "--prometheus", scraped.url, "--execute")
    assert done.returncode == 4
    assert not (helm / "calls").exists()


def test_an_abort_acts_before_it_asks_helm(
    assistant: Assistant, namespace: Namespace, helm: Path, tmp_path: Path
) -> None:
    """A broken helm, chart or values file must not keep traffic on a broken version."""
    namespace.routed_canary()
    (helm / "values.yaml").write_text("canary: {enabled: false}")
    done = assistant("abort")
    assert done.returncode == 1
    assert "no canary.enabled: true" in done.stdout
    assert namespace.read_rules()[1]["backendRefs"][1]["weight"] == 0


def test_an_abort_keeps_stable_as_it_was(
    assistant: Assistant, namespace: Namespace, tmp_path: Path
) -> None:
    namespace.native_canary()
    done = assistant("abort")
    assert done.returncode == 0, done.stdout
    assert "helm upgrade" in done.stdout
    assert namespace.read_service()["spec"]["canary"][0]["trafficPercent"] == 0
    assert yaml.safe_load((tmp_path / "rollout-values.yaml").read_text()) == VALUES | {
        "canary": {"enabled": False, "strategy": "route"}
    }


def test_a_person_without_a_cluster_gets_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.rollout", "status"],
        env=os.environ | {"KUBECONFIG": str(tmp_path / "nothing")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("rollout: no cluster: set KUBECONFIG")
    assert "Traceback" not in done.stderr
