"""Resizing one part of a picture: Pillow's filters, with SIMD where there is a build of it.

`cykooz-resizer` (the Rust crate fast_image_resize) works on Pillow's own memory, rounds between two
passes as Pillow does, and takes an eighth of its time (docs/decisions/0011). It always begins with
the columns; ask it for one pass at a time.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

from PIL import Image

_simd: dict[str, Any] = {}
try:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # no build for this machine (requirements/cpu.in)
    pass
else:
    _simd["bicubic"] = ResizeAlg.convolution(FilterType.catmull_rom)
    _simd["bilinear"] = ResizeAlg.convolution(FilterType.bilinear)
    _simd["lanczos"] = ResizeAlg.convolution(FilterType.lanczos3)

RESIZER: Final = "cykooz-resizer" if _simd else "pillow"
"""What resizes here, for the log."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels."""

PILLOW: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

REACH: Final = {"bicubic": 2, "lanczos": 3} | ({"bilinear": 1} if _simd else {})
"""Of the filters with which a part can be resized alone: how far each value looks to either side,
in pixels of the smaller picture.

The edges of a part are rounded, Pillow's to 24 bits, and the weights of smooth filters change by as
little. With the others a pixel falls out or another comes in; and with Pillow's bilinear a value
that is just between two is rounded the other way, and there are many."""


def resample(image: Image.Image, size: tuple[int, int], box: Box, how: str) -> Image.Image:
    """Resize the part of an RGB picture that is in `box` to `size` (width, height).

    Args:
        how: a filter of `PILLOW`.
    """
    left, top, right, bottom = box
    if how not in _simd:
        return _by_pillow(image, size, box, how)
    result = Image.new("RGB", size)
    part = CropBox(left, top, _extent(left, right, image.width), _extent(top, bottom, image.height))
    options = ResizeOptions(resize_alg=_simd[how], crop_box=part)
    try:
        Resizer().resize_pil(image, result, options)  # one may not be shared between threads
    except Exception:
        raise
    except BaseException as error:  # a panic of Rust's is no Exception, and would pass for a stop
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError("cykooz-resizer panicked") from None
    return result


def _by_pillow(image: Image.Image, size: tuple[int, int], box: Box, how: str) -> Image.Image:
    """Where an axis is only cut, that comes first: Pillow would pass over it as well."""
    left, top, right, bottom = box
    if right - left == size[0]:
        image = image.crop((int(left), 0, int(right), image.height))
        box = (0, top, size[0], bottom)
    elif bottom - top == size[1]:
        image = image.crop((0, int(top), image.width, int(bottom)))
        box = (left, 0, right, size[1])
    return image.resize(size, PILLOW[how], box)


def _extent(start: float, end: float, most: int) -> float:
    """`end - start`, of which the sum with `start` is not rounded to past the edge."""
    extent = end - start
    while start + extent > most:
        extent = math.nextafter(extent, 0)
    return extent
