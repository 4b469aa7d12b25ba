"""What a caller can send and what it gets back: the words every layer shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Verdict: TypeAlias = Literal["fake", "real", "uncertain"]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An untrusted picture file (JPEG, PNG, WebP), not yet opened."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded picture of any size: uint8, shape (H, W, 3), RGB."""

    array: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A picture the caller resized and normalised itself: float32, shape (3, H, W), finite."""

    array: NDArray[np.float32]


Picture: TypeAlias = EncodedImage | Pixels | Tensor


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one picture.

    Attributes:
        probabilities: float32, shape (K,), calibrated, in the bundle's label order, sums to 1.
        fake_prob: the sum of `probabilities` over the labels that mean fake.
        verdict: `fake_prob` against the bundle's thresholds.
    """

    probabilities: NDArray[np.float32]
    fake_prob: float
    verdict: Verdict
