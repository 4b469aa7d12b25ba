"""ONNX Runtime on the CPU: on networks of every size faster than torch, and 20 MB of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.graph import Session
from predictor.inference.cpus import usable_cpus
from predictor.inference.engine import EngineInput, EngineOutOfMemory

LARGEST_BATCH: Final = 4
"""One thread gains nothing above, and the memory of a larger batch is kept."""


class OnnxEngine:
    """A graph on the CPU, with a lane for each core, where lanes are threads.

    All lanes share one session: a forward holds no lock and no GIL, and keeps to the thread of
    its lane (docs/engines.md has what that is worth). It is never lost: what fails, fails alone.

    Args:
        lanes: forwards at once; None takes the CPUs this process may use.
    """

    name = "onnx"
    device = "cpu"
    gpu: str | None = None
    largest_batch: int | None = LARGEST_BATCH
    tolerance = 1e-4
    stack = staticmethod(np.stack)

    def __init__(
        self, session: Session, input_size: tuple[int, int], *, lanes: int | None = None
    ) -> None:
        self._session = session
        self._input_size = input_size
        self.lanes = self.at_once = lanes or usable_cpus()

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """See `Engine.forward`."""
        try:
            return self._session(batch)
        except MemoryError:
            pass
        except Exception as error:  # its classes have no base of their own, and tell no more
            if "alloc" not in str(error):
                raise
        raise EngineOutOfMemory

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """See `Engine.warm_up`; both kinds of input."""
        height, width = self._input_size
        for size in batch_sizes:
            self.forward(np.zeros((size, height, width, 3), dtype=np.uint8))
            self.forward(np.zeros((size, 3, height, width), dtype=np.float32))
