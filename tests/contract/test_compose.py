"""hack/compose.yaml: valid, closed to the network, and without a secret anybody knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from hack import compose

ROOT = Path(__file__).parents[2]
FILE = ROOT / "hack" / "compose.yaml"
# Made on each machine.
MADE = {".run/keys", ".run/grafana-password"}


def interpolated() -> str:
    """As compose reads it: ${NAME:-default} and ${NAME:?message} replaced."""
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "1000:1000", FILE.read_text())
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(interpolated())["services"]


def test_it_follows_the_compose_specification() -> None:
    # With YAML's merge keys resolved, as compose does before it validates.
    resolved = yaml.safe_dump(yaml.safe_load(interpolated()))
    assert sorted(PyCompose.from_yaml(resolved).service_names()) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_listens_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"])
    # A moving tag would start another program tomorrow.
    assert re.search(r":v?\d+\.\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there_and_cannot_be_written(name: str) -> None:
    for mount in SERVICES[name].get("volumes", ()):
        source = (FILE.parent / mount["source"]).resolve().relative_to(ROOT)
        assert str(source) in MADE or (ROOT / source).exists(), source
        assert mount["read_only"] is True


def test_no_password_or_key_is_written_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY(?!S_DIR)", name)
            assert not secret or (name.endswith("__FILE") and value.startswith("/run/")), name


def test_each_machine_gets_its_own_key_and_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        monkeypatch.chdir(tmp_path / machine)
        compose.prepare()
        files = [compose.KEYS / compose.KEY_ID, compose.PASSWORD]
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)
        made.append([file.read_text() for file in files])
        compose.prepare()
        assert [file.read_text() for file in files] == made[-1], "a second start keeps them"
    assert not set(made[0]) & set(made[1])


def test_grafana_gets_the_dashboards_and_prometheus_the_rules_that_they_need() -> None:
    """A path that Grafana or Prometheus looks for, and nobody mounts, is an empty list to them."""
    provisioning = FILE.parent / "compose" / "grafana" / "dashboards" / "realfake.yaml"
    (provider,) = yaml.safe_load(provisioning.read_text())["providers"]
    configuration = yaml.safe_load((FILE.parent / "compose" / "prometheus.yaml").read_text())
    (rules,) = configuration["rule_files"]
    asked = {
        "grafana": (provider["options"]["path"], "*.json", "manifests/dashboards"),
        "prometheus": (rules.removesuffix("/*.yaml"), "*.yaml", "manifests/alerts"),
    }
    for name, (path, pattern, folder) in asked.items():
        (source,) = (m["source"] for m in SERVICES[name]["volumes"] if m["target"] == path)
        mounted = (FILE.parent / source).resolve()
        assert mounted == ROOT / folder
        assert list(mounted.glob(pattern))
    # A data source without one asks for rates over windows that hold no two scrapes, or too many.
    sources = yaml.safe_load(
        (FILE.parent / "compose" / "grafana" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    interval = configuration["global"]["scrape_interval"]
    assert [one["jsonData"]["timeInterval"] for one in sources] == [interval]


@pytest.mark.parametrize(
    ("exit_codes", "expected"),
    [
        ({"docker": 0, "podman-compose": 0}, ["docker", "compose"]),
        ({"docker": 1, "podman-compose": 0}, ["podman-compose"]),
        ({"podman-compose": 0}, ["podman-compose"]),
        ({"docker": 1}, None),
    ],
)
def test_it_is_started_by_what_runs_here(
    exit_codes: dict[str, int],
    expected: list[str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which engine a machine has is not for a test to say: these answer, or do not."""
    for name, code in exit_codes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compose.program() == expected
    if expected is None:
        monkeypatch.chdir(tmp_path)  # main leaves it, and this comes back
        assert compose.main() == 1
        assert "apt-get install podman podman-compose" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_prometheus_accepts_its_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", ROOT / "hack" / "compose" / "prometheus.yaml"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
