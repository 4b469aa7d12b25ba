"""What every engine of the tests has; its forward is the test's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class FakeEngine:
    """An `Engine` on a CPU, but for `forward`."""

    name = "fake"
    device = "cpu"
    gpu: str | None = None
    lanes = at_once = 1
    largest_batch: int | None = None
    tolerance = 1e-4
    stack = staticmethod(np.stack)

    def warm_up(self, batch_sizes: Sequence[int]) -> None: ...
