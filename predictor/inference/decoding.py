"""Untrusted bytes → the uint8 RGB crop that the network sees. Without torch.

What a picture means here, where Pillow's defaults (and timm's datasets) would lose something:

- EXIF orientation is applied;
- 16-bit grey is scaled to 8 bits, not clipped to white;
- transparency is composed over white;
- a CMYK JPEG goes through its embedded profile where it has a usable one;
- RGB profiles are ignored, as timm ignores them;
- of several frames or pictures in one file, the first counts.

One kind of damage may stay unseen: a JPEG whose data ends early but properly (with its end
marker) is filled up with grey by libjpeg, which does not say so. It is refused only where its
bytes could not possibly hold the pixels that its header claims.

Safe to call from several threads at once.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageCms,
    JpegImagePlugin,  # noqa: F401  # imported, a plugin is registered: else the first WebP
    MpoImagePlugin,  # noqa: F401  # would import all of Pillow's, in the middle of a request
    PngImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from predictor.bundle.manifest import Preprocessing
from predictor.errors import ImageTooLarge, InvalidImage, InvalidRequest, PayloadTooLarge
from predictor.inference import geometry
from predictor.inference.sniffing import Header, sniff

_DAMAGED: Final = "the picture cannot be decoded: it is damaged or cut short; save it anew"
_ORIENTATION: Final = 0x0112
_TRANSPOSED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what shows the picture upright."""

# DecodeLimits is checked before Pillow opens a file. Pillow's own net stays up for whatever else
# this process opens, just above the largest limits.max_pixels that the settings allow.
Image.MAX_IMAGE_PIXELS = 400_000_000
# Of all text chunks of one PNG, inflated: Pillow would take 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one picture may cost. The settings of group `limits` say what each is for."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 25_000_000
    max_side: int = 8192
    min_side: int = 8
    max_aspect_ratio: float = 20.0
    max_resized_pixels: int = 4_000_000
    max_jpeg_scans: int = 64
    max_segments: int = 1000


def check_bytes(size: int, limits: DecodeLimits) -> None:
    """Raises: PayloadTooLarge: a file of so many bytes."""
    if size > limits.max_bytes:
        raise PayloadTooLarge(
            f"the picture is larger than {limits.max_bytes} bytes (limits.max_image_bytes)"
        )


def decode(
    data: bytes | memoryview, preprocessing: Preprocessing, limits: DecodeLimits
) -> NDArray[np.uint8]:
    """Decode, resize and crop one picture file.

    Returns:
        uint8, (H, W, 3) of `preprocessing.input_size`, RGB, C-contiguous, writable, the caller's.

    Raises:
        PayloadTooLarge, UnsupportedMedia, ImageTooLarge, InvalidImage: whatever the bytes are.
    """
    view = memoryview(data).cast("B")
    check_bytes(len(view), limits)
    header = sniff(view, max_segments=limits.max_segments, max_scans=limits.max_jpeg_scans)
    _check_size(header.width, header.height, limits)
    # Whether it is to be rotated is not known yet: refuse what is too large either way.
    _check_resized_size(
        min(
            (header.width, header.height),
            (header.height, header.width),
            key=lambda size: _pixels_resized(size, preprocessing),
        ),
        preprocessing,
        limits,
    )
    if not header.complete:
        raise InvalidImage(_DAMAGED)
    try:
        image = _open(view, header)
    except MemoryError:
        raise
    except Exception:  # what Pillow raises on bad files has no common base, and is no news to us
        raise InvalidImage(_DAMAGED) from None
    _check_resized_size(image.size, preprocessing, limits)
    return geometry.crop(image, preprocessing)


def prepare(
    pixels: NDArray[np.uint8], preprocessing: Preprocessing, limits: DecodeLimits
) -> NDArray[np.uint8]:
    """Resize and crop a picture that is decoded already: uint8, (H, W, 3), RGB.

    Returns:
        What `decode` returns for the same picture in a file.

    Raises:
        ImageTooLarge, InvalidImage: its size, or another shape or type.
    """
    check_pixels(pixels, preprocessing, limits)
    return geometry.crop(Image.fromarray(pixels), preprocessing)


def check_pixels(
    pixels: NDArray[np.uint8], preprocessing: Preprocessing, limits: DecodeLimits
) -> None:
    """Raises ImageTooLarge, InvalidImage: see `prepare`."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidImage("decoded pixels must be uint8 of shape (height, width, 3)")
    height, width, _ = pixels.shape
    _check_size(width, height, limits)
    _check_resized_size((width, height), preprocessing, limits)


def check_tensor(array: NDArray[np.float32], preprocessing: Preprocessing) -> None:
    """Raises InvalidRequest: it is of another size than the network sees."""
    expected = (3, *preprocessing.input_size)
    if array.shape != expected:
        raise InvalidRequest(f"a preprocessed tensor must have shape {expected} here")


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    shown = f"the picture is {width}x{height} pixels"
    short, long = sorted((width, height))
    if short < limits.min_side:
        raise InvalidImage(f"{shown}; both sides need at least {limits.min_side}")
    if long > limits.max_side:
        raise ImageTooLarge(f"{shown}; a side may have {limits.max_side} (limits.max_side)")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{shown}; it may have {limits.max_pixels} (limits.max_pixels)")
    if long > short * limits.max_aspect_ratio:
        raise ImageTooLarge(
            f"{shown}; the long side may be {limits.max_aspect_ratio:g} times the short one "
            "(limits.max_aspect_ratio)"
        )


def _check_resized_size(
    size: tuple[int, int], preprocessing: Preprocessing, limits: DecodeLimits
) -> None:
    pixels = _pixels_resized(size, preprocessing)
    if pixels > limits.max_resized_pixels:
        raise ImageTooLarge(
            f"the picture is {size[0]}x{size[1]} pixels, and {pixels} in all after resizing; that "
            f"may be {limits.max_resized_pixels} (limits.max_resized_pixels)"
        )


def _pixels_resized(size: tuple[int, int], preprocessing: Preprocessing) -> int:
    return math.prod(geometry.resized_size(size, preprocessing))


def _open(view: memoryview, header: Header) -> Image.Image:
    with Image.open(io.BytesIO(view), formats=[header.format]) as image:
        if image.size != (header.width, header.height):
            raise ValueError("the decoder sees another size than was checked")
        image.load()
        return _as_rgb(_upright(image), header.depth)


def _upright(image: Image.Image) -> Image.Image:
    """`ImageOps.exif_transpose`, which fails where it cannot write the other EXIF tags again."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:
        return image  # EXIF that cannot be read says nothing about the pixels
    # A damaged tag can be of any type, a tuple or bytes; some cannot be looked up.
    method = _TRANSPOSED.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _as_rgb(image: Image.Image, depth: int) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _over_white(image, depth)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).clip(0, 65535).astype(np.uint32)
    hidden = image.info.get("transparency")
    mask = None if hidden is None else values == hidden
    values *= 255
    values += 32895
    values >>= 16  # round(value / 257), exactly; in place, as 25 Mpx take 100 MB here
    grey = values.astype(np.uint8)
    if mask is not None:
        grey[mask] = 255
    return Image.fromarray(grey).convert("RGB")


def _over_white(image: Image.Image, depth: int) -> Image.Image:
    key: Any = image.info.get("transparency")
    # Pillow compares pixels, scaled to 8 bits, with the file's own value of the hidden colour,
    # of which only the lowest `depth` bits count.
    if image.mode == "L":
        most = 2**depth - 1
        image.info["transparency"] = (key & most) * 255 // most
    elif image.mode == "RGB":
        image.info["transparency"] = tuple(value >> (depth - 8) & 255 for value in key)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    result = Image.new("RGB", rgba.size, "white")
    result.paste(rgba, mask=rgba)
    return result


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")  # a profile that is no profile says nothing about the pixels
    return converted if converted is not None else image.convert("RGB")
