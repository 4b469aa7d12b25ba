"""torch on a real device, against torchvision's own arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import transforms

from predictor.bundle.loader import load_module
from predictor.bundle.manifest import Manifest, Preprocessing, read_manifest
from predictor.bundle.verdicts import softmax
from predictor.errors import SettingsError
from predictor.inference.engine import EngineLost, EngineOutOfMemory
from predictor.inference.torch_engine import Dtype, TorchEngine

DEBUG_BUNDLE = Path(__file__).parents[2] / "checkpoints" / "debug"
IMAGENET = Preprocessing((16, 16))
HALVES = Preprocessing((16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])


class Recorder(torch.nn.Module):
    """Answers the channels' means, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(batch)
        return batch.mean((2, 3))


class Failing(torch.nn.Module):
    """Runs `fault` in place of a network, until it raises nothing."""

    def __init__(self, fault: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.fault(batch)
        return batch.mean((2, 3))


def every_value() -> NDArray[np.uint8]:
    """Two pictures that hold each of the 256 values in each channel."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = np.stack([ramp, ramp[::-1], ramp.T], axis=2)
    return np.stack([one, 255 - one])


def as_torchvision(pictures: NDArray[np.uint8], preprocessing: Preprocessing) -> torch.Tensor:
    transform: Any = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
    )
    return torch.stack([transform(picture) for picture in pictures])


@devices
@pytest.mark.parametrize("preprocessing", [IMAGENET, HALVES], ids=["imagenet", "halves"])
def test_normalisation_is_torchvisions_to_the_last_bit(
    device: str, preprocessing: Preprocessing
) -> None:
    module = Recorder()
    TorchEngine(module, preprocessing, device=device).forward(every_value())
    expected = as_torchvision(every_value(), preprocessing)
    assert module.seen[0].dtype == torch.float32
    assert torch.equal(module.seen[0].cpu(), expected)


@devices
def test_a_normalised_tensor_reaches_the_network_as_it_is(device: str) -> None:
    module = Recorder()
    sent = as_torchvision(every_value(), IMAGENET).numpy()
    TorchEngine(module, IMAGENET, device=device).forward(sent)
    np.testing.assert_array_equal(module.seen[0].cpu().numpy(), sent)


@devices
def test_the_network_and_both_kinds_of_input_are_channels_last(device: str) -> None:
    convolution = torch.nn.Conv2d(3, 8, 3)
    recorder = Recorder()
    engine = TorchEngine(torch.nn.Sequential(recorder), IMAGENET, device=device)
    engine.warm_up([2])
    assert len(recorder.seen) >= 2
    for seen in recorder.seen:
        assert seen.is_contiguous(memory_format=torch.channels_last)
        assert seen.device.type == device
    TorchEngine(convolution, IMAGENET, device=device)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_pictures_that_are_views_are_read_right() -> None:
    """A caller's tensor may be a slice of its request, or upside down."""
    engine = TorchEngine(Recorder(), IMAGENET, device="cpu")
    flipped = every_value()[:, ::-1]
    np.testing.assert_array_equal(engine.forward(flipped), engine.forward(flipped.copy()))


def test_warm_up_runs_every_batch_size_with_both_kinds_of_input() -> None:
    module = Recorder()
    TorchEngine(module, Preprocessing((8, 24)), device="cpu").warm_up([1, 2, 4])
    shapes = [tuple(seen.shape) for seen in module.seen]
    assert shapes == [(size, 3, 8, 24) for size in (1, 1, 2, 2, 4, 4)]
    uint8, floats = module.seen[0], module.seen[1]
    assert uint8.min() < 0  # black, normalised: it came as uint8
    assert floats.abs().max() == 0


def test_the_network_is_put_into_evaluation_mode_and_keeps_no_gradients() -> None:
    module = Recorder().train()
    answers = TorchEngine(module, IMAGENET, device="cpu").forward(every_value())
    assert not module.training
    assert module.seen[0].is_inference()
    assert answers.dtype == np.float32
    assert answers.shape == (2, 3)


# Settings


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_is_refused_on_a_cpu(dtype: Dtype) -> None:
    with pytest.raises(SettingsError, match=rf"^model\.dtype: {dtype} is for GPUs; set auto or"):
        TorchEngine(Recorder(), IMAGENET, device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["auto", "fp32"])
def test_a_cpu_computes_in_full_precision(dtype: Dtype) -> None:
    engine = TorchEngine(Recorder(), IMAGENET, device="cpu", dtype=dtype)
    assert (engine.device, engine.tolerance) == ("cpu", 1e-4)


@pytest.mark.parametrize("device", ["cuda:99"] + ["cuda"] * (not torch.cuda.is_available()))
def test_a_missing_gpu_is_refused_with_the_way_out(device: str) -> None:
    with pytest.raises(SettingsError, match=rf"^model\.device: {device} is not here .*set auto"):
        TorchEngine(Recorder(), IMAGENET, device=device)


def test_auto_takes_the_gpu_there_is() -> None:
    expected = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert TorchEngine(Recorder(), IMAGENET).device == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", ["auto", "fp16", "bf16"])
def test_half_precision_on_a_gpu_is_near_full_precision(dtype: Dtype) -> None:
    manifest = read_manifest(DEBUG_BUNDLE)
    batch = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    half = TorchEngine(load_module(manifest), manifest.preprocessing, dtype=dtype)
    full = TorchEngine(load_module(manifest), manifest.preprocessing, dtype="fp32")
    answers = [softmax(engine.forward(batch), manifest.temperature) for engine in (half, full)]
    np.testing.assert_allclose(answers[0], answers[1], atol=half.tolerance)


def test_a_cpu_has_as_many_lanes_as_the_caller_says_of_one_thread_each() -> None:
    before = torch.get_num_threads()
    try:
        engine = TorchEngine(Recorder(), IMAGENET, device="cpu", lanes=3)
        assert (engine.lanes, torch.get_num_threads()) == (3, 1)
    finally:
        torch.set_num_threads(before)


# A real network


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_batch_answers_what_its_pictures_answer_alone(manifest: Manifest, kind: str) -> None:
    """Company must not change an answer: a batch norm in training mode would."""
    engine = TorchEngine(load_module(manifest), manifest.preprocessing, device="cpu")
    pictures = np.random.default_rng(1).integers(0, 256, (7, 128, 128, 3), dtype=np.uint8)
    batch: Any = pictures
    if kind == "float32":
        batch = as_torchvision(pictures, manifest.preprocessing).numpy()
    together = softmax(engine.forward(batch), manifest.temperature)
    alone = softmax(
        np.concatenate([engine.forward(batch[i : i + 1]) for i in range(7)]), manifest.temperature
    )
    np.testing.assert_allclose(together, alone, atol=1e-6, rtol=0)
    assert np.ptp(together[:, 0]) > 1e-3  # else every picture gets the same answer


# A device in trouble: faults that a CPU does not have are raised where torch would


def test_out_of_memory_is_said_in_the_batchers_words_and_the_batch_is_let_go() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fault(batch: torch.Tensor) -> None:
        if len(batch) > 1:
            activations = batch * 2
            held.append(weakref.ref(activations))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    engine = TorchEngine(Failing(fault), IMAGENET, device="cpu")
    with pytest.raises(EngineOutOfMemory) as caught:
        engine.forward(every_value())
    # Even while the error is in hand: its traceback must not reach into the network.
    assert held[0]() is None
    assert caught.value.__context__ is None
    assert engine.forward(every_value()[:1]).shape == (1, 3)


@pytest.mark.parametrize("usable", [True, False])
def test_a_cuda_error_ends_the_engine_where_the_device_answers_nothing_more(
    usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(batch: torch.Tensor) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def synchronize(device: torch.device) -> None:
        if not usable:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    engine = TorchEngine(Failing(fault), IMAGENET, device="cpu")
    with pytest.raises(torch.AcceleratorError if usable else EngineLost):
        engine.forward(every_value())


def test_other_errors_of_the_network_are_left_as_they_are() -> None:
    engine = TorchEngine(torch.nn.Linear(5, 2), IMAGENET, device="cpu")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.forward(every_value())
