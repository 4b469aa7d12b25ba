"""The numbers of an answer: checked, and the same float32 by every route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from predictor.errors import InternalError
from predictor.inference.pictures import Classification

ROUNDING: Final = 1e-3
"""How far beyond 0..1 float32 arithmetic may leave a probability."""


def check(results: Sequence[Classification], *, pictures: int, labels: int | None = None) -> None:
    """Make sure that every answer is one: a client must never take NaN for a verdict.

    Args:
        labels: the number of probabilities each must have (None: not answered, not checked).

    Raises:
        InternalError: a number is no probability, or an answer is missing.
    """
    if len(results) != pictures or not all(_is_sound(result, labels) for result in results):
        raise InternalError


def _is_sound(result: Classification, labels: int | None) -> bool:
    if not -ROUNDING <= result.fake_prob <= 1 + ROUNDING:  # also where it is NaN
        return False
    if labels is None:
        return True
    values = result.probabilities
    # NaN is the smallest and the largest of any, and in no range.
    return values.shape == (labels,) and values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING


def fake_prob(result: Classification) -> np.float32:
    """The probability of fake, 0 to 1, in the precision of V2's FP32."""
    return np.float32(min(max(result.fake_prob, 0.0), 1.0))


def real_prob(result: Classification) -> np.float32:
    """The probability of real: the rest, because every label means fake or real."""
    return np.float32(min(max(1.0 - result.fake_prob, 0.0), 1.0))
