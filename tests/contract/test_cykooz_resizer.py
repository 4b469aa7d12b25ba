"""What `inference/resampling.py` relies on: the resizer reads and writes Pillow's own memory, and
rounds as Pillow does.
"""

from __future__ import annotations

import platform

import numpy as np
import pytest
from PIL import Image

from predictor.inference import resampling

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="cykooz-resizer has no build for this machine"
)


def test_it_is_what_resizes_here() -> None:
    assert resampling.RESIZER == "cykooz-resizer"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (type("PanicException", (BaseException,), {}), RuntimeError),
        (KeyboardInterrupt, KeyboardInterrupt),
        (MemoryError, MemoryError),
    ],
)
def test_a_panic_of_rusts_is_an_error_like_others(
    raised: type[BaseException], seen: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Resizer:
        def resize_pil(self, *_: object) -> None:
            raise raised

    monkeypatch.setattr(resampling, "Resizer", Resizer)
    with pytest.raises(seen):
        resampling.resample(noise(8, 8), (4, 8), (0, 0, 8, 8), "bicubic")


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((640, 480), (224, 480)),
        ((640, 480), (640, 224)),
        ((97, 61), (224, 61)),
        ((1, 1), (7, 1)),
        ((3, 700), (3, 1)),
        ((5000, 1100), (224, 1100)),  # Pillow keeps so large a picture in several blocks
        ((1100, 5000), (1100, 224)),
    ],
    ids=str,
)
def test_one_pass_is_pillows(before: tuple[int, int], after: tuple[int, int], filter: str) -> None:
    picture = noise(*before)
    ours = resampling.resample(picture, after, (0, 0, *before), filter)
    pillows = picture.resize(after, resampling.PILLOW[filter])
    off = np.abs(np.asarray(ours).astype(int) - np.asarray(pillows))
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 3 + 0.02 * off.size


@pytest.mark.parametrize("edge", [1, 3, 7, 341, 455, 4804])
def test_a_part_may_end_at_the_very_edge(edge: int) -> None:
    """Its bounds are checked in floating point: a sum that is rounded up would be past the edge."""
    picture = noise(61, 43)
    for start in range(edge):
        left, top = 61 * start / edge, 43 * start / edge
        part = resampling.resample(picture, (5, 4), (left, top, 61.0, 43.0), "bicubic")
        assert part.size == (5, 4)


def test_the_picture_that_is_resized_stays_as_it_is() -> None:
    picture = noise(64, 48)
    before = picture.tobytes()
    resampling.resample(picture, (32, 48), (0, 0, 64, 48), "bicubic")
    assert picture.tobytes() == before
