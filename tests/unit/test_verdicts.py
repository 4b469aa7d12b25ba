"""From logits to probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from predictor.bundle.verdicts import softmax


@pytest.mark.parametrize("temperature", [0.05, 0.59, 1.0, 7.0])
@pytest.mark.parametrize(
    "logits", [[0.0, 0.0], [1.5, -2.0, 0.25], [30.0, -30.0], [1e4, 1e4 - 1, -1e4], [-5.0] * 9]
)
def test_softmax_is_the_definition(logits: list[float], temperature: float) -> None:
    row = np.array(logits, dtype=np.float32)
    highest = max(logits)
    exponents = [math.exp((float(value) - highest) / temperature) for value in row]
    expected = [exponent / math.fsum(exponents) for exponent in exponents]
    answer = softmax(np.stack([row, row[::-1]]), temperature)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, [expected, expected[::-1]], rtol=1e-6, atol=1e-30)
