"""torch on CUDA or the CPU: uint8 crosses to the device, normalisation happens there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.bundle.manifest import Preprocessing
from predictor.errors import SettingsError
from predictor.inference.cpus import usable_cpus
from predictor.inference.cuda import CudaNetwork
from predictor.inference.engine import EngineInput, EngineLost, EngineOutOfMemory

Dtype: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEngine:
    """A module on a device.

    A GPU has two lanes, so that the next batch is there when a forward ends. A CPU has one for each
    core, where a forward keeps to one thread: forwards that share their cores with decoding, and
    with one another, spend most of their time waiting for the slowest of their threads (measured
    with `make overload`: a ninth of the throughput).

    Args:
        module: (N, 3, H, W) normalised in, logits (N, K) out; in evaluation mode.
        device: `auto` takes the first GPU when there is one.
        dtype: `auto` is fp32 on the CPU and fp16 autocast on CUDA.
        lanes: forwards at once on a CPU; None takes the CPUs this process may use.
        cuda_graphs: replay small batches on a GPU, where the network allows it.

    Raises:
        SettingsError: a device or dtype that is not to be had here.
    """

    name = "torch"
    largest_batch: int | None = None

    def __init__(
        self,
        module: torch.nn.Module,
        preprocessing: Preprocessing,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        lanes: int | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self._device = _resolve(device)
        self.device = str(self._device)
        self.gpu = _uuid(self._device)
        self._half = _half(dtype, self._device)
        self._module = module.eval().to(self._device).to(memory_format=torch.channels_last)
        mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)
        self._mean, self._std = mean, std
        # A tensor: by a number, CUDA would multiply with the rounded reciprocal instead.
        self._white = torch.tensor(255.0, device=self._device)
        self._input_size = preprocessing.input_size
        self._cuda_graphs = cuda_graphs
        self._on_gpu: CudaNetwork | None = None
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._logits
        if self._device.type == "cpu":
            self.lanes = self.at_once = lanes or usable_cpus()
            torch.set_num_threads(1)
        else:
            self.lanes, self.at_once = 2, 1
            self._run = self._on_gpu = CudaNetwork(self._logits, self._device)
            if self._half is None:  # by default convolutions round to TF32, ten bits
                torch.backends.cudnn.allow_tf32 = False

    @property
    def tolerance(self) -> float:
        """How far probabilities may be from the golden ones: fp16 has 3 digits, bf16 2."""
        if self._half is None:
            return 1e-4
        return 2e-2 if self._half == torch.float16 else 5e-2

    def stack(self, pictures: Sequence[NDArray[Any]]) -> EngineInput:
        """See `Engine.stack`."""
        return np.stack(pictures) if self._on_gpu is None else self._on_gpu.stack(pictures)

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """See `Engine.forward`."""
        try:
            with torch.inference_mode():
                answers = self._run(torch.from_numpy(np.ascontiguousarray(batch)))
                logits: NDArray[np.float32] = answers.numpy()
                return logits
        except torch.cuda.OutOfMemoryError:
            pass  # while it is handled, its traceback keeps the batch's activations alive
        except RuntimeError as error:
            # cuDNN and cuBLAS say it in words of their own.
            of_the_device = isinstance(error, torch.AcceleratorError) or self._on_gpu is not None
            if of_the_device and not self._answers():
                raise EngineLost(str(error)) from None
            raise
        torch.cuda.empty_cache()
        raise EngineOutOfMemory

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """See `Engine.warm_up`; both kinds of input."""
        captured = self._capture(self._on_gpu, max(batch_sizes)) if self._on_gpu else []
        try:
            self._run_each(batch_sizes)
        except EngineOutOfMemory:
            if self._on_gpu is None or not captured:
                raise
        else:
            return
        self._on_gpu.forget("what they keep leaves too little memory for the largest batch")
        self._run_each(batch_sizes)

    def _capture(self, network: CudaNetwork, largest: int) -> list[int]:
        if not self._cuda_graphs:
            return []
        try:
            with torch.inference_mode():
                return network.capture(self._input_size, largest)
        except torch.AcceleratorError as error:
            raise EngineLost(str(error)) from None

    def _run_each(self, batch_sizes: Sequence[int]) -> None:
        height, width = self._input_size
        for size in batch_sizes:
            self.forward(np.zeros((size, height, width, 3), dtype=np.uint8))
            self.forward(np.zeros((size, 3, height, width), dtype=np.float32))

    def _answers(self) -> bool:
        """Whether the device can still be used: some CUDA errors come back on every later call."""
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return False
        return True

    def _logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Of pictures on the device, and there."""
        with self._autocast():
            logits: torch.Tensor = self._module(self._normalised(pictures))
            return logits.float()

    def _normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.dtype == torch.uint8:
            # NHWC seen as NCHW is channels_last already; the same arithmetic as ToTensor and
            # Normalize, in the same order, so that answers match timm's to the last bit.
            return ((pictures.permute(0, 3, 1, 2).float() / self._white) - self._mean) / self._std
        return pictures.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._half is None:
            return nullcontext()
        # Casts that are kept from one forward to the next would not be in a captured graph.
        return torch.autocast(self._device.type, dtype=self._half, cache_enabled=False)


def _uuid(device: torch.device) -> str | None:
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def _resolve(device: str) -> torch.device:
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda:0" if available else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (
        not available or (resolved.index or 0) >= torch.cuda.device_count()
    ):
        raise SettingsError(
            f"model.device: {device} is not here (torch sees {torch.cuda.device_count()} GPUs); "
            "set auto or cpu, or give the pod a GPU"
        )
    return resolved


def _half(dtype: Dtype, device: torch.device) -> torch.dtype | None:
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else None
    if dtype == "fp32":
        return None
    if device.type == "cpu":
        raise SettingsError(f"model.dtype: {dtype} is for GPUs; set auto or fp32 on a CPU")
    return _HALF[dtype]
