"""Resize and crop as timm's evaluation transform does, bit for bit, with Pillow alone.

Follows `timm.data.transforms_factory.transforms_imagenet_eval` (timm 1.0) and torchvision's
functions for PIL images; tests/unit/test_geometry.py holds it against both.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predictor.bundle.manifest import Preprocessing

RESAMPLING: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


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
    size = resized_size(image.size, preprocessing)
    if size != image.size:
        image = image.resize(size, RESAMPLING[preprocessing.interpolation])
    return _center_crop(np.asarray(image), preprocessing)


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


def _center_crop(array: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Cut the middle out; where the picture is smaller, pad as timm does: with the mean colour
    in border mode, else with black."""
    height, width = preprocessing.input_size
    fill = (0.0, 0.0, 0.0)
    if preprocessing.crop_mode == "border":
        fill = preprocessing.mean
    result = np.empty((height, width, 3), dtype=np.uint8)
    result[:] = [min(max(round(255 * value), 0), 255) for value in fill]
    rows, into_rows = _window(array.shape[0], height)
    columns, into_columns = _window(array.shape[1], width)
    result[into_rows, into_columns] = array[rows, columns]
    return result


def _window(available: int, wanted: int) -> tuple[slice, slice]:
    """Which part of an axis is kept, and where it goes."""
    if available < wanted:
        start = (wanted - available) // 2
        return slice(0, available), slice(start, start + available)
    start = round((available - wanted) / 2)
    return slice(start, start + wanted), slice(0, wanted)
