"""A network on a GPU: pictures are copied there beside a forward, small batches are replayed."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

log = logging.getLogger("predictor.engines")

_GRAPH_SIZES: Final = (1, 2, 4, *range(8, 65, 8))
"""Pictures in the batches that are replayed. Up to here the launch of each kernel may cost more
than it computes; above, a batch that is filled up costs more than its launches."""
_TOLERANCE: Final = 0.05
"""How far a replayed logit may be from the network's, as a share of what a fourth of the light
changes: the same kernels compute both, so it is next to nothing."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured forward, and the memory on the GPU that it reads and writes.

    Attributes:
        pictures: uint8, shape (N, H, W, 3).
        logits: float32, shape (N, K).
    """

    graph: torch.cuda.CUDAGraph
    pictures: torch.Tensor
    logits: torch.Tensor

    def takes(self, pictures: torch.Tensor) -> bool:
        room, *shape = self.pictures.shape
        same_kind = pictures.dtype == torch.uint8 and list(pictures.shape[1:]) == shape
        return same_kind and len(pictures) <= room

    def replay(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits of at most N pictures, until the next replay; what fills up is left over."""
        self.pictures[: len(pictures)].copy_(pictures)
        self.graph.replay()
        return self.logits[: len(pictures)]


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types here


def _sleeping_event() -> torch.cuda.Event:
    """One that is waited for asleep: by default CUDA keeps a core busy until it comes."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch has no types


class CudaNetwork:
    """For the threads of several lanes: one batch is copied to the GPU while another is in its
    forward. Forwards follow one another, so that they share memory, and graphs.

    Args:
        network: uint8 (N, H, W, 3) or float32 (N, 3, H, W) on `device` in, float32 logits (N, K)
            there out.
    """

    def __init__(
        self, network: Callable[[torch.Tensor], torch.Tensor], device: torch.device
    ) -> None:
        self._network = network
        self._device = device
        torch.cuda.synchronize(device)  # the streams below wait for no weights on another
        self._copies, self._forwards = _stream(device), _stream(device)
        self._launching = threading.Lock()
        self._memory = torch.cuda.graph_pool_handle()
        self._graphs: list[_Graph] = []  # the smallest first

    def stack(self, pictures: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """A batch, in memory that the GPU reads by itself."""
        dtype = torch.uint8 if pictures[0].dtype == np.uint8 else torch.float32
        shape = (len(pictures), *pictures[0].shape)
        batch: NDArray[Any] = torch.empty(shape, dtype=dtype, pin_memory=True).numpy()
        np.stack(pictures, out=batch)
        return batch

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; both in the memory of this machine."""
        # In a new thread it is GPU 0 to which a stream's end would go back.
        with torch.cuda.device(self._device):
            with torch.cuda.stream(self._copies):
                # Nothing is done to a batch from `stack`.
                pictures = batch.pin_memory().to(self._device, non_blocking=True)
                copied = self._copies.record_event()
            with self._launching, torch.cuda.stream(self._forwards):
                self._forwards.wait_event(copied)
                logits = self._logits(pictures)
                answers = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
                answers.copy_(logits, non_blocking=True)
                answered = self._forwards.record_event(_sleeping_event())
            answered.synchronize()  # without Python's lock
        return answers

    def _logits(self, pictures: torch.Tensor) -> torch.Tensor:
        for graph in self._graphs:
            if graph.takes(pictures):
                return graph.replay(pictures)
        try:
            return self._network(pictures)
        except torch.OutOfMemoryError as error:
            # Its frames hold what the forward had so far, and another lane's is about to begin.
            traceback.clear_frames(error.__traceback__)
            raise

    def capture(self, input_size: tuple[int, int], largest: int) -> list[int]:
        """Capture forwards of uint8 pictures, to be replayed from now on; call it before the rest.

        A batch is filled up to the next size that was captured. Graphs share their memory, for
        only one is replayed at a time, and its answer is copied before the next.

        Args:
            input_size: height and width in pixels.
            largest: most pictures in a batch.

        Returns:
            The sizes; none where the network cannot be captured, or answers otherwise when
            replayed, or memory is short.
        """
        sizes = [size for size in _GRAPH_SIZES if size < largest]
        if largest <= _GRAPH_SIZES[-1]:
            sizes.append(largest)
        began = time.monotonic()
        try:
            with torch.cuda.device(self._device):
                self._graphs = self._captured(sizes, input_size)
        except RuntimeError as error:  # out of memory is one, too
            # An error amid a capture becomes another one at its end.
            reason = str(error.__context__ or error)
        else:
            seconds = round(time.monotonic() - began, 3)
            log.info("CUDA graphs captured", extra={"batch_sizes": sizes, "seconds": seconds})
            return sizes
        self.forget(reason)
        return []

    def forget(self, reason: str) -> None:
        """Replay nothing any more, and give the memory back."""
        self._graphs = []
        torch.cuda.empty_cache()
        log.warning("served without CUDA graphs", extra={"reason": reason})

    def _captured(self, sizes: Sequence[int], input_size: tuple[int, int]) -> list[_Graph]:
        """Raises: RuntimeError: of torch, or because a graph answers otherwise."""
        shape = (sizes[-1], *input_size, 3)
        with torch.cuda.stream(self._forwards):
            pictures = torch.empty(shape, dtype=torch.uint8, device=self._device)
        # The smaller ones fit into the memory that the largest took.
        graphs = [self._capture_one(pictures[:size]) for size in reversed(sizes)]
        return graphs[::-1]

    def _capture_one(self, pictures: torch.Tensor) -> _Graph:
        with torch.cuda.stream(self._forwards):
            pictures.random_(0, 256)
            others = pictures // 4
            # What libraries do at the first forward of a size cannot be captured.
            expected = self._network(others)
            spread = (self._network(pictures) - expected).abs().max()
        graph = torch.cuda.CUDAGraph()
        # Other threads, the telemetry's say, may use CUDA meanwhile.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=self._forwards, capture_error_mode="thread_local"
        ):
            logits = self._network(pictures)
        captured = _Graph(graph, pictures, logits)
        with torch.cuda.stream(self._forwards):
            difference = (captured.replay(others) - expected).abs().max()
            if not (difference <= _TOLERANCE * spread).item():
                raise RuntimeError(
                    f"{len(pictures)} pictures get other logits when replayed, by "
                    f"{difference.item():.2g}, and darker ones by {spread.item():.2g}"
                )
        return captured
