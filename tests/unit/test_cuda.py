"""Networks on a GPU; where none is, on a stand-in for its streams and graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from predictor.bundle.loader import load_module
from predictor.bundle.manifest import read_manifest
from predictor.inference.cuda import CudaNetwork
from predictor.inference.engine import EngineOutOfMemory
from predictor.inference.torch_engine import TorchEngine
from tests.unit import cuda_stand_in

DEBUG_BUNDLE = Path(__file__).parents[2] / "checkpoints" / "debug"
SIZE = (8, 12)

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
        sizes = on_device.capture(SIZE, largest)
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
        on_device.capture(SIZE, 8)
        kept = [on_device(pictures(count)) for count in range(1, 9)]
        for count, answers in enumerate(kept, start=1):
            torch.testing.assert_close(answers, Sums()(pictures(count)))


@pytest.mark.parametrize("other", ["normalised", "of another size"])
def test_what_was_not_captured_goes_to_the_network(other: str, device: torch.device) -> None:
    network = Sums()
    on_device = CudaNetwork(network, device)
    batch = torch.rand(2, 3, *SIZE) if other == "normalised" else pictures(2, (4, 4))
    with torch.inference_mode():
        on_device.capture(SIZE, 4)
        network.calls = 0
        torch.testing.assert_close(on_device(batch), Sums()(batch))
    assert network.calls == 1


def asks_for_a_number(pictures: torch.Tensor) -> torch.Tensor:
    answers = Sums()(pictures)
    return answers if answers.sum().item() > 0 else -answers


class Moody(Sums):
    """Its arithmetic changes from call to call, in Python; a graph's does not."""

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().__call__(pictures) * (1 if self.calls == 1 else -1)


def fails_alone(pictures: torch.Tensor) -> torch.Tensor:
    """After larger batches were captured."""
    if len(pictures) == 1:
        raise RuntimeError("not alone")
    return Sums()(pictures)


def answers_nan(pictures: torch.Tensor) -> torch.Tensor:
    return Sums()(pictures) * float("nan")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: asks_for_a_number, "captur"),
        (Moody, "4 pictures get other logits when replayed, by"),
        (lambda: answers_nan, "4 pictures get other logits when replayed, by nan"),
        (lambda: fails_alone, "not alone"),
    ],
)
def test_a_network_that_cannot_be_captured_is_served_without_and_that_is_said(
    make: Callable[[], Callable[[torch.Tensor], torch.Tensor]],
    reason: str,
    device: torch.device,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []
    network = make()

    def counted(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        return network(batch)

    on_device = CudaNetwork(counted, device)
    with torch.inference_mode():
        assert on_device.capture(SIZE, 4) == []
        calls.clear()
        assert on_device(pictures(3)).shape == (3, 3)
    assert calls == [3]
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    told: Any = record
    assert record.getMessage() == "served without CUDA graphs"
    assert reason in told.reason


def test_lanes_that_ask_at_once_get_each_their_own_answers(device: torch.device) -> None:
    on_device = CudaNetwork(Sums(), device)
    with torch.inference_mode():
        on_device.capture(SIZE, 8)

    def ask(count: int) -> None:
        with torch.inference_mode():
            torch.testing.assert_close(on_device(pictures(count)), Sums()(pictures(count)))

    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(ask, [*range(1, 12)] * 8))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_batch_is_stacked_where_the_gpu_reads_it(
    dtype: type[np.generic], device: torch.device
) -> None:
    arrays = [np.full((4, 3, 2), number).astype(dtype)[::-1] for number in range(3)]
    batch = CudaNetwork(Sums(), device).stack(arrays)
    np.testing.assert_array_equal(batch, np.stack(arrays))
    assert batch.dtype == dtype
    assert device.type == "cpu" or torch.from_numpy(batch).is_pinned()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_answers_are_waited_for() -> None:
    def slow(batch: torch.Tensor) -> torch.Tensor:
        torch.cuda._sleep(100_000_000)  # type: ignore[no-untyped-call]  # cycles
        return Sums()(batch)

    on_device = CudaNetwork(slow, torch.device("cuda"))
    with torch.inference_mode():
        torch.testing.assert_close(on_device(pictures(5)), Sums()(pictures(5)))


# The engine


def engine(device: torch.device, module: torch.nn.Module, *, cuda_graphs: bool) -> TorchEngine:
    preprocessing = read_manifest(DEBUG_BUNDLE).preprocessing
    made = TorchEngine(module, preprocessing, device=device.type, cuda_graphs=cuda_graphs)
    if device.type == "cpu":
        made._on_gpu = made._run = CudaNetwork(made._logits, device)
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9])
def test_an_engine_answers_alike_with_graphs_and_without(count: int, device: torch.device) -> None:
    manifest = read_manifest(DEBUG_BUNDLE)
    batch = np.stack([each.numpy() for each in pictures(count, manifest.preprocessing.input_size)])
    batch[0] //= 4
    answers = []
    for cuda_graphs in (True, False):
        made = engine(device, load_module(manifest), cuda_graphs=cuda_graphs)
        made.warm_up([1, 2, 4, 8])
        answers.append(made.forward(made.stack(list(batch))))
    assert len(answers[0]) == count
    np.testing.assert_allclose(answers[0], answers[1], atol=0.05 if device.type == "cuda" else 1e-4)


class ShortOfMemory(torch.nn.Module):
    """Has room for the largest batch only while there are no graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.captured = True

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.captured and len(batch) == 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return batch.mean((2, 3))


def test_graphs_are_given_up_where_the_largest_batch_needs_their_memory(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = ShortOfMemory()
    made = engine(device, module, cuda_graphs=True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(module, "captured", False))
    made.warm_up([1, 64, 100])
    assert "served without CUDA graphs" in caplog.text
    assert made.forward(np.zeros((100, 128, 128, 3), np.uint8)).shape == (100, 3)


def test_where_no_graph_is_to_blame_too_large_a_batch_is_still_refused(
    device: torch.device,
) -> None:
    made = engine(device, ShortOfMemory(), cuda_graphs=False)
    with pytest.raises(EngineOutOfMemory):
        made.warm_up([1, 64, 100])
