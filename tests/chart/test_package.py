"""The chart as it is published: complete, fresh, and the same once packed."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml

from hack.chart import manifests
from tests.chart.rendering import CHART, PROFILES, ROOT, profile, render_exactly

FOLDERS = (*manifests.PROFILES, manifests.RUNTIME)


def test_what_is_generated_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.generate_chart", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(helm_python.package(CHART, destination=tmp_path_factory.mktemp("dist")))


def test_the_package_holds_what_a_release_needs_and_no_test_values(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("realfake/") for name in packed.getnames()}
    assert names >= {
        "Chart.yaml",
        "README.md",
        "UPGRADE.md",
        "values.yaml",
        "values.schema.json",
        "files/photo.jpg",
        "files/settings.json",
        "files/smoke.py",
        "templates/NOTES.txt",
    }
    assert not [name for name in names if name.startswith("ci/")]


@pytest.mark.parametrize("name", PROFILES)
def test_the_package_renders_what_the_folder_does(archive: Path, name: str) -> None:
    values = profile(name)
    assert render_exactly(values, chart=archive).objects == render_exactly(values).objects


def test_versions_agree() -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert described["appVersion"] == project["version"]


def test_the_chart_has_one_entry_of_changes_for_artifact_hub() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])
    assert changes
    assert all(change.keys() == {"kind", "description"} for change in changes)


def test_every_value_is_used_by_a_template() -> None:
    """A value that no template reads would be accepted and do nothing."""
    templates = "\n".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in values.keys() - {"global", "extra"}:
        assert re.search(rf"[.\"]{key}\b", templates), key


@pytest.mark.parametrize("folder", FOLDERS)
def test_raw_manifests_are_whole(folder: str) -> None:
    """Every file is listed, parses, names no release of helm, and fits Kubernetes' schema."""
    place = manifests.MANIFESTS / folder
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in place.iterdir()} == {*listed, "kustomization.yaml"}
    for name in listed:
        document = yaml.safe_load((place / name).read_text())
        assert "helm" not in str(document["metadata"]).lower()
        if document["apiVersion"].count(".") == 0 or document["apiVersion"].endswith("k8s.io/v1"):
            kubernetes_validate.validate(document, "1.29", strict=True)


def test_the_runtime_is_chosen_by_name_only_and_its_example_names_storage() -> None:
    place = manifests.MANIFESTS / manifests.RUNTIME
    runtime = yaml.safe_load((place / "runtime.yaml").read_text())
    example = yaml.safe_load((place / "example.yaml").read_text())
    (form,) = runtime["spec"]["supportedModelFormats"]
    model = example["spec"]["predictor"]["model"]
    assert form["autoSelect"] is False
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] == form["name"]
    assert model["storageUri"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    # Merged by strategic patch under this name, and args would be joined.
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert "args" not in container
    # KServe reads the container as a template; nothing but its own placeholder may look like one.
    assert re.findall(r"{{.*?}}", yaml.safe_dump(runtime)) == ["{{.Name}}"]
