"""The bill of materials names exactly what the lock lets an install use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {
    "cuda": (ROOT / "requirements" / "runtime.txt").read_text(),
    "cpu": (ROOT / "requirements" / "cpu.txt").read_text(),
}


def make(output: Path, variant: str) -> dict[str, Any]:
    """Make it as `make sbom` does, on a machine with an index of its own."""
    subprocess.run(
        [sys.executable, "hack/sbom.py", "--variant", variant, output],
        cwd=ROOT,
        env=os.environ | {"PIP_INDEX_URL": "https://token@index.example/simple"},
        capture_output=True,
        check=True,
    )
    bill: dict[str, Any] = json.loads(output.read_text())
    return bill


@pytest.fixture(scope="module", params=LOCKS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bill(variant: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(tmp_path_factory.mktemp("sbom") / "new" / "realfake.cdx.json", variant)


def test_every_pin_is_in_it_once_and_nothing_else_is(bill: dict[str, Any], variant: str) -> None:
    pinned = re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;]+)", LOCKS[variant], re.MULTILINE)
    listed = [(part["name"], part["version"]) for part in bill["components"]]
    assert sorted(listed) == sorted(pinned)
    assert len(pinned) > 50
    assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])


def test_every_hash_of_the_lock_is_in_it(bill: dict[str, Any], variant: str) -> None:
    """A scanner that has a wheel in hand finds it by its hash."""
    pinned = re.findall(r"--hash=sha256:([0-9a-f]{64})", LOCKS[variant])
    listed = [
        digest["content"]
        for part in bill["components"]
        for reference in part["externalReferences"]
        for digest in reference.get("hashes", ())
    ]
    assert sorted(listed) == sorted(pinned)


def test_it_describes_this_version(bill: dict[str, Any]) -> None:
    described = bill["metadata"]["component"]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert (described["name"], described["version"]) == ("realfake", version[1])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")


def test_it_can_be_made_again_and_names_no_private_index(
    bill: dict[str, Any], variant: str, tmp_path: Path
) -> None:
    assert make(tmp_path / "again.json", variant) == bill
    assert "index.example" not in json.dumps(bill)
