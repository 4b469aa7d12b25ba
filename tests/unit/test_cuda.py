"""Networks on a GPU; where none is, on a stand-in for its streams and graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.bundle.loader import load_module
from predictor.bundle.manifest import read_manifest
from predictor.inference.cuda import CudaNetwork
from tests.unit import cuda_stand_in

DEBUG_BUNDLE = Path(__file__).parents[2] / "checkpoints" / "debug"
SIZE = (8, 12)
TOLERANCE = 1e-4

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=on_gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cuda":
        return torch.device("cuda")
    cuda_stand_in.install(monkeypatch)
    return torch.device("cpu")


class Sums:
    """Answers each picture's sum of each channel; knows how often it was called from Python."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        over = (1, 2) if pictures.dtype == torch.uint8 else (2, 3)
        return pictures.float().mean(over) / 10


def pictures(count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("largest", [1, 2, 12, 64, 100])
def test_small_batches_of_any_size_are_replayed_and_larger_ones_are_not(
    largest: int, device: torch.device
) -> None:
    network = Sums()
    on_device = CudaNetwork(network, device)
    with torch.inference_mode():
        sizes = on_device.capture(SIZE, largest, TOLERANCE)
        assert (sizes[0], sizes[-1]) == (1, min(largest, 64))
        for count in (*range(1, sizes[-1] + 3), 1):
            network.calls = 0
            batch = pictures(count)
            answers = on_device(batch)
            assert network.calls == (count > sizes[-1])
            torch.testing.assert_close(answers, Sums()(batch))


def test_an_answer_is_not_overwritten_by_the_next(device: torch.device) -> None:
    on_device = CudaNetwork(Sums(), device)
    with torch.inference_mode():
        on_device.capture(SIZE, 8, TOLERANCE)
        kept = [on_device(pictures(count)) for count in range(1, 9)]
        for count, answers in enumerate(kept, start=1):
            torch.testing.assert_close(answers, Sums()(pictures(count)))


@pytest.mark.parametrize("other", ["normalised", "of another size"])
def test_what_was_not_recorded_goes_to_the_network(other: str, device: torch.device) -> None:
    network = Sums()
    on_device = CudaNetwork(network, device)
    batch = torch.rand(2, 3, *SIZE) if other == "normalised" else pictures(2, (4, 4))
    with torch.inference_mode():
        on_device.capture(SIZE, 4, TOLERANCE)
        network.calls = 0
        torch.testing.assert_close(on_device(batch), Sums()(batch))
    assert network.calls == 1


def asks_for_a_number(pictures: torch.Tensor) -> torch.Tensor:
    answers = Sums()(pictures)
    return answers if answers.sum().item() > 0 else -answers


class Moody(Sums):
    """Its arithmetic changes from call to call, in Python; a recording's does not."""

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().__call__(pictures) * (1 if self.calls == 1 else -1)


def answers_nan(pictures: torch.Tensor) -> torch.Tensor:
    return Sums()(pictures) * float("nan")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (asks_for_a_number, "captur"),
        (Moody(), "4 pictures are answered otherwise, by 0."),
        (answers_nan, "4 pictures are answered otherwise, by nan"),
    ],
)
def test_a_network_that_cannot_be_recorded_is_served_without_and_that_is_said(
    network: Callable[[torch.Tensor], torch.Tensor],
    reason: str,
    device: torch.device,
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_device = CudaNetwork(network, device)
    with torch.inference_mode():
        assert on_device.capture(SIZE, 4, TOLERANCE) == []
        assert on_device(pictures(3)).shape == (3, 3)
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    told: Any = record
    assert record.getMessage() == "served without CUDA graphs"
    assert reason in told.reason


def test_lanes_that_ask_at_once_get_each_their_own_answers(device: torch.device) -> None:
    on_device = CudaNetwork(Sums(), device)
    with torch.inference_mode():
        on_device.capture(SIZE, 8, TOLERANCE)

    def ask(count: int) -> None:
        with torch.inference_mode():
            torch.testing.assert_close(on_device(pictures(count)), Sums()(pictures(count)))

    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(ask, [*range(1, 12)] * 8))


def test_a_real_network_answers_alike_alone_in_company_and_in_a_recording(
    device: torch.device,
) -> None:
    manifest = read_manifest(DEBUG_BUNDLE)
    module = load_module(manifest).eval().to(device)

    def network(batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(batch.permute(0, 3, 1, 2).float() / 255)
        return logits

    on_device = CudaNetwork(network, device)
    batch = pictures(7, manifest.preprocessing.input_size)
    with torch.inference_mode():
        expected = network(batch.to(device)).cpu()
        assert on_device.capture(manifest.preprocessing.input_size, 8, TOLERANCE) == [1, 2, 4, 8]
        together = on_device(batch)
        alone = torch.cat([on_device(one[None]) for one in batch])
    torch.testing.assert_close(together, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(alone, expected, atol=1e-3, rtol=1e-3)
