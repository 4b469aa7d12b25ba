"""From logits to a word: calibration, which labels mean fake, and where the lines are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line on `fake_prob`, with the error rate measured at it (None: never measured)."""

    value: float
    error_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the labels mean.

    Attributes:
        fake_labels, real_labels: indices; together every label once.
        fake_at_least: at or above it the verdict is `fake`; its error rate is the share of
            real photographs that end there.
        real_at_most: below `fake_at_least` and at or below this the verdict is `real`; its error
            rate is the share of fakes that end there. Between the two lines it is `uncertain`.
    """

    fake_labels: tuple[int, ...]
    real_labels: tuple[int, ...]
    fake_at_least: Threshold
    real_at_most: Threshold

    def fake_probability(self, probabilities: NDArray[np.float32]) -> float:
        """Sum of the fake labels' probabilities; `probabilities` has shape (K,)."""
        values = probabilities.tolist()  # of so few, numpy's own sum takes three times as long
        # Several rounded to float32 may add up to a little more than 1.
        return min(math.fsum(values[label] for label in self.fake_labels), 1.0)

    def decide(self, fake_prob: float) -> Literal["fake", "real", "uncertain"]:
        if fake_prob >= self.fake_at_least.value:
            return "fake"
        return "real" if fake_prob <= self.real_at_most.value else "uncertain"


def softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Calibrated probabilities of logits (..., K), computed in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(axis=-1, keepdims=True)
    return result.astype(np.float32)
