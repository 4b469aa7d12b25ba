"""A network whose answers are easily foretold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from predictor.inference.engine import EngineInput
from predictor.inference.pictures import Pixels
from tests.fake_engine import FakeEngine


class Reds(FakeEngine):
    """A network that answers the mean red value and its opposite."""

    name = "reds"

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        reds = [float(item[..., 0].mean()) / 100 for item in batch]
        return np.array([[red, -red] for red in reds], dtype=np.float32)


def red(value: int) -> Pixels:
    array = np.zeros((128, 128, 3), dtype=np.uint8)
    array[..., 0] = value
    return Pixels(array)
