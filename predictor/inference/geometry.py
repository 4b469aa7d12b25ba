"""Resize and crop as timm's evaluation transform does, without torch.

Follows `timm.data.transforms_factory.transforms_imagenet_eval` (timm 1.0) and torchvision's
functions for PIL images; tests/unit/test_geometry.py holds it against both. What the crop cuts off
is not resized. That saves a good part of the decoding, and rounds one value in some hundreds the
other way (docs/decisions/0010 and 0011).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predictor.bundle.manifest import Preprocessing
from predictor.inference.resampling import PILLOW, REACH, resample


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """The (width, height) a picture of `size` (width, height) is resized to before the crop."""
    width, height = size
    target_height, target_width = _scale_size(preprocessing)
    if preprocessing.crop_mode == "squash":
        return target_width, target_height
    if preprocessing.crop_mode == "border":
        ratio = max(height / target_height, width / target_width)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if target_height == target_width:
        return _short_side(width, height, target_height)
    ratio = min(height / target_height, width / target_width)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop an RGB picture.

    Returns:
        uint8, (H, W, 3) of `preprocessing.input_size`, C-contiguous, writable, the caller's own.
    """
    width, height = resized_size(image.size, preprocessing)
    target_height, target_width = preprocessing.input_size
    rows, into_rows = _window(height, target_height)
    columns, into_columns = _window(width, target_width)
    how = preprocessing.interpolation
    if (width, height) == image.size:
        kept = np.asarray(image)[rows, columns]
    elif how in REACH:
        kept = np.asarray(_part_of(image, (width, height), columns, rows, how))
    else:
        kept = np.asarray(image.resize((width, height), PILLOW[how]))[rows, columns]
    if kept.shape[:2] == preprocessing.input_size:
        return kept.copy()
    result = _background(preprocessing)
    result[into_rows, into_columns] = kept
    return result


def _part_of(
    image: Image.Image, size: tuple[int, int], columns: slice, rows: slice, how: str
) -> Image.Image:
    """These columns and rows of `image.resize(size, how)`.

    Pixels are rounded between the two passes, so their order is to be that of the whole.
    """
    left, right = (image.width * edge / size[0] for edge in (columns.start, columns.stop))
    top, bottom = (image.height * edge / size[1] for edge in (rows.start, rows.stop))
    width, height = columns.stop - columns.start, rows.stop - rows.start
    if _vertical_first(image.size, size):
        first, last = _looked_at(left, right, image.width, size[0], how)
        strip = resample(image, (last - first, height), (first, top, last, bottom), how)
        return resample(strip, (width, height), (left - first, 0, right - first, height), how)
    first, last = _looked_at(top, bottom, image.height, size[1], how)
    strip = resample(image, (width, last - first), (left, first, right, last), how)
    return resample(strip, (width, height), (0, top - first, width, bottom - first), how)


def _looked_at(start: float, end: float, before: int, after: int, how: str) -> tuple[int, int]:
    """The pixels of an axis that its pass needs for what is between the two edges, and one more
    for its rounding."""
    reach = REACH[how] * max(1.0, before / after) + 1
    return max(0, math.floor(start - reach)), min(before, math.ceil(end + reach))


def _vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Which pass is Pillow's first (ImagingResampleInner in Resample.c of Pillow 13)."""
    return before[1] - after[1] > max(0, 2 * (before[0] - after[0]))


def _scale_size(preprocessing: Preprocessing) -> tuple[int, int]:
    height, width = preprocessing.input_size
    return (
        math.floor(height / preprocessing.crop_pct),
        math.floor(width / preprocessing.crop_pct),
    )


def _short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """torchvision's Resize with one number: the short side becomes `side`."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _background(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What timm pads a picture with that is smaller: the mean colour in border mode, else black."""
    fill = preprocessing.mean if preprocessing.crop_mode == "border" else (0.0, 0.0, 0.0)
    result = np.empty((*preprocessing.input_size, 3), dtype=np.uint8)
    result[:] = [min(max(round(255 * value), 0), 255) for value in fill]
    return result


def _window(available: int, wanted: int) -> tuple[slice, slice]:
    """Which part of an axis is kept, and where it goes."""
    if available < wanted:
        start = (wanted - available) // 2
        return slice(0, available), slice(start, start + available)
    start = round((available - wanted) / 2)
    return slice(start, start + wanted), slice(0, wanted)
