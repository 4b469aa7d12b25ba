"""What `inference/geometry.py` relies on in Pillow, beyond what it documents."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from predictor.inference.geometry import _vertical_first


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((300, 300), (200, 100)),
        ((300, 300), (200, 99)),
        ((300, 300), (512, 299)),
        ((300, 300), (512, 300)),
        ((300, 300), (400, 512)),
        ((400, 560), (256, 272)),
        ((400, 560), (256, 271)),
        ((50, 4000), (40, 3980)),
        ((50, 4000), (40, 3979)),
    ],
    ids=str,
)
def test_pillow_orders_its_passes_as_we_think(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    """It rounds between the two, so that the order shows."""
    noise = np.random.default_rng(0).integers(0, 256, (before[1], before[0], 3), dtype=np.uint8)
    picture, how = Image.fromarray(noise), Image.Resampling.BICUBIC
    middle = (before[0], after[1]) if _vertical_first(before, after) else (after[0], before[1])
    in_our_order = picture.resize(middle, how).resize(after, how)
    np.testing.assert_array_equal(np.asarray(picture.resize(after, how)), np.asarray(in_our_order))
