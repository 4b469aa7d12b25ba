"""What is asked of a network on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

EngineInput: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]


class EngineOutOfMemory(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


class EngineLost(Exception):
    """The device answers nothing any more; only a new process gets it back."""


class Forwards(Protocol):
    """What runs a network, once."""

    largest_batch: int | None
    """Pictures in one forward above which nothing is gained; None where more is always better."""

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """Classify a batch.

        Args:
            batch: uint8 (N, H, W, 3) cropped RGB, normalised on the device; or
                float32 (N, 3, H, W), already normalised.

        Returns:
            Logits, float32, shape (N, K), uncalibrated.

        Raises:
            EngineOutOfMemory: the batch does not fit; the engine is still usable.
            EngineLost: it is not.
        """
        ...


class Engine(Forwards, Protocol):
    """A network on a device. Never called from the event loop."""

    name: str
    """``torch`` or ``onnx``; a metric label and part of the model's metadata."""
    device: str
    """``cpu``, ``cuda:0``."""
    gpu: str | None
    """UUID of the GPU, as CUDA gives it; None on a CPU."""
    lanes: int
    """Threads that may call `forward` at the same time, and together keep the device busy."""
    at_once: int
    """Of these, how many the device works for at once: the others only make it ready for the next
    forward."""

    @property
    def tolerance(self) -> float:
        """How far probabilities may be from the golden ones."""
        ...

    def stack(self, pictures: Sequence[NDArray[Any]]) -> EngineInput:
        """One batch of pictures of the same kind, where the device reads it soonest."""
        ...

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run each batch size once, so that the first request pays for no compilation."""
        ...
