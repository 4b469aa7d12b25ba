"""What several of these tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.bundle.manifest import Manifest, read_manifest
from predictor.settings import Settings
from tests.unit.bundles import described
from tests.unit.gated_engine import Engine

DEBUG_BUNDLE = Path(__file__).parents[2] / "checkpoints" / "debug"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.free()


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Of the debug bundle."""
    return read_manifest(DEBUG_BUNDLE)


@pytest.fixture
def settings() -> Settings:
    """The debug bundle with torch on the CPU, in batches of four."""
    return Settings.model_validate(
        {
            "model": {"path": str(DEBUG_BUNDLE), "device": "cpu", "engine": "torch"},
            "batching": {"max_batch_size": 4},
        }
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Described in full; its weights are none."""
    return described(tmp_path / "bundle")
