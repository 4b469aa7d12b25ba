"""The peers of the benchmark do the same work as this server; their servers are not needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hack.bench.limit import Work
from hack.bench.measuring import TOLERANCE
from hack.bench.peers import classifier
from hack.load.bundles import bundle_of
from hack.load.server import BUNDLE

PICTURES = [path.read_bytes() for path in sorted((BUNDLE / "samples").glob("*.jpg"))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of timm's smallest, with a crop that is less than the picture."""
    return bundle_of("test_resnet", tmp_path_factory.mktemp("peers"))


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_peer_answers_as_this_server_does(
    engine: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_BUNDLE", str(bundle))
    monkeypatch.setenv("PEER_ENGINE", engine)
    peer = classifier.make(threads=1)
    prepared = [peer.prepare(picture) for picture in PICTURES]
    found = [answer["fake"] for answer in peer.probabilities(prepared)]
    ours = Work(bundle, "onnx").fake_probabilities(PICTURES)
    assert np.ptp(ours) > 3 * TOLERANCE, "answers that are all alike prove nothing"
    assert found == pytest.approx(ours, abs=TOLERANCE)
