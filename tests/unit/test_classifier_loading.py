"""From a bundle to a network that is warm and proven, or a start that is refused."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from predictor.bundle.loader import load_module
from predictor.bundle.manifest import Manifest, read_golden_vectors
from predictor.errors import BundleError, SettingsError, StartupError
from predictor.inference.classifier import batch_sizes, load_classifier, replay
from predictor.inference.engine import EngineInput, EngineLost, EngineOutOfMemory
from predictor.inference.torch_engine import TorchEngine
from predictor.settings import Settings
from tests.unit.reds import Reds


async def test_a_batch_that_does_not_fit_at_start_is_a_setting_to_change(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: TorchEngine, batch: EngineInput) -> NDArray[np.float32]:
        if len(batch) > 2:  # a GPU's fault, raised where a GPU would
            raise EngineOutOfMemory
        return np.zeros((len(batch), 2), np.float32)

    monkeypatch.setattr(TorchEngine, "forward", forward)
    with pytest.raises(SettingsError, match=r"^batching\.max_batch_size: 4 pictures do not fit"):
        await asyncio.to_thread(load_classifier, settings)


async def test_another_bundle_than_the_one_that_was_named_is_refused(settings: Settings) -> None:
    def pinned(digest: str) -> Settings:
        model = settings.model.model_copy(update={"digest": digest})
        return settings.model_copy(update={"model": model})

    with pytest.raises(BundleError, match=r"^model\.digest: the bundle's is [0-9a-f]{64}") as found:
        await asyncio.to_thread(load_classifier, pinned("0" * 64))
    named = found.value.message.split()[4].rstrip(";")
    classifier = await asyncio.to_thread(load_classifier, pinned(named))
    await classifier.close()


async def test_a_device_that_is_lost_at_the_start_stops_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: TorchEngine, batch: EngineInput) -> NDArray[np.float32]:
        raise EngineLost("CUDA error: unspecified launch failure")

    monkeypatch.setattr(TorchEngine, "forward", forward)
    with pytest.raises(StartupError, match=r"^cpu answers nothing .*: CUDA error: unspec"):
        await asyncio.to_thread(load_classifier, settings)


@pytest.mark.parametrize("shift", [0.01, math.nan])
def test_a_network_that_is_not_the_bundles_does_not_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """Digests match, weights load, and yet the answers are others: a changed timm would do it."""

    def load_other(manifest: Manifest) -> torch.nn.Module:
        module: Any = load_module(manifest)
        with torch.no_grad():
            module.get_classifier().bias[0] += shift
        return cast(torch.nn.Module, module)

    monkeypatch.setattr("predictor.bundle.loader.load_module", load_other)
    with pytest.raises(BundleError, match=r"^golden vectors: an answer differs by"):
        load_classifier(settings)


def test_golden_vectors_replay_within_the_tolerance(manifest: Manifest) -> None:
    engine = TorchEngine(load_module(manifest), manifest.preprocessing, device="cpu")
    assert read_golden_vectors(manifest) is not None
    assert replay(manifest, engine, engine.tolerance) <= engine.tolerance
    with pytest.raises(BundleError, match="more than -1"):
        replay(manifest, engine, -1)


def test_a_bundle_without_golden_vectors_has_nothing_to_replay(
    manifest: Manifest, tmp_path: Path
) -> None:
    assert replay(replace(manifest, path=tmp_path), Reds(), 0.0) == 0.0


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (8, [1, 2, 4, 8]),
        (33, [1, 2, 4, 8, 16, 32, 33]),
    ],
)
def test_every_power_of_two_and_the_largest_batch_are_warmed_up(
    largest: int, sizes: list[int]
) -> None:
    assert batch_sizes(largest) == sizes


def test_golden_vectors_are_replayed_in_batches_that_the_engine_serves(manifest: Manifest) -> None:
    """It may keep the memory of a larger one."""
    seen: list[int] = []

    class Noting(TorchEngine):
        largest_batch: int | None = 3

        def forward(self, batch: EngineInput) -> NDArray[np.float32]:
            seen.append(len(batch))
            return super().forward(batch)

    engine = Noting(load_module(manifest), manifest.preprocessing, device="cpu")
    assert replay(manifest, engine, engine.tolerance) <= engine.tolerance
    assert seen == [3, 1]
