"""What each kind of picture becomes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from predictor.bundle.manifest import Preprocessing
from predictor.errors import InvalidImage, RealFakeError
from predictor.inference.decoding import DecodeLimits, decode, prepare
from tests.hostile import (
    GOOD,
    HOSTILE,
    chunk,
    cmyk_jpeg_with_profile,
    flat_png,
    jpeg_with_broken_exif,
    jpeg_with_orientation,
)
from tests.pictures import noise, saved

SIZE = (32, 48)
CROP = Preprocessing(SIZE)
WHOLE = Preprocessing(SIZE, "nearest", 1.0, "squash")
LIMITS = DecodeLimits()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def colour(data: bytes) -> tuple[int, ...]:
    """The one colour that a flat picture has."""
    crop = decode(data, CROP, LIMITS)
    assert (crop == crop[0, 0]).all()
    return tuple(crop[0, 0].tolist())


def prepared(image: Image.Image, preprocessing: Preprocessing = CROP) -> NDArray[np.uint8]:
    return prepare(np.array(image.convert("RGB")), preprocessing, LIMITS)


# In production Pillow's warnings are warnings.
@pytest.mark.filterwarnings("ignore:.*(Tag data|EXIF)")
@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
def test_good_pictures_become_a_crop_of_the_callers_own(make: Callable[[], bytes]) -> None:
    data = make()
    crop = decode(data, CROP, LIMITS)
    assert crop.shape == (*SIZE, 3)
    assert crop.dtype == np.uint8
    assert crop.flags.c_contiguous
    assert crop.flags.owndata
    assert crop.flags.writeable
    np.testing.assert_array_equal(decode(memoryview(data), CROP, LIMITS), crop)
    np.testing.assert_array_equal(decode(memoryview(bytearray(data)), CROP, LIMITS), crop)


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "png", "lossless webp", "mpo"])
@pytest.mark.parametrize("preprocessing", [CROP, WHOLE, Preprocessing((64, 64), "lanczos", 0.9)])
def test_a_file_and_its_pixels_give_the_same_crop(name: str, preprocessing: Preprocessing) -> None:
    data = GOOD[name]()
    np.testing.assert_array_equal(
        decode(data, preprocessing, LIMITS), prepared(opened(data), preprocessing)
    )


# What Pillow's defaults would lose.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(noise(160, 100), format, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(opened(data))
    np.testing.assert_array_equal(decode(data, CROP, LIMITS), prepared(upright))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    data = jpeg_with_orientation(orientation)
    np.testing.assert_array_equal(decode(data, CROP, LIMITS), prepared(opened(data)))


@pytest.mark.filterwarnings("ignore:.*(Tag data|EXIF)")
def test_orientation_counts_where_other_tags_are_broken() -> None:
    broken = jpeg_with_broken_exif(6)
    upright = opened(saved(noise(), "JPEG")).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(decode(broken, CROP, LIMITS), prepared(upright))


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0xx"])
def test_exif_that_is_none_says_nothing(exif: bytes) -> None:
    data = saved(noise(), "JPEG", exif=exif)
    plain = saved(noise(), "JPEG")
    np.testing.assert_array_equal(decode(data, CROP, LIMITS), decode(plain, CROP, LIMITS))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 257, 3000, 32768, 65406, 65535])
def test_16_bit_grey_is_scaled(value: int) -> None:
    expected = round(value / 257)
    data = flat_png(struct.pack(">H", value), depth=16, colour=0)
    assert colour(data) == (expected,) * 3


WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("depth", "colour_type", "sample", "hidden", "expected"),
    [
        # Grey: the hidden value is the file's own, of its own depth.
        (1, 0, b"\x00", b"\0\0", WHITE),
        (1, 0, b"\x00", b"\0\1", (0, 0, 0)),
        (2, 0, b"\x55", b"\0\1", WHITE),
        (2, 0, b"\x55", b"\0\x55", WHITE),  # of which the lowest bits count
        (2, 0, b"\x55", b"\0\2", (85, 85, 85)),
        (4, 0, b"\x55", b"\0\5", WHITE),
        (4, 0, b"\x55", b"\0\6", (85, 85, 85)),
        (8, 0, b"\x55", b"\0\x55", WHITE),
        (8, 0, b"\x55", b"\xff\x55", WHITE),
        (8, 0, b"\x55", b"\0\x56", (85, 85, 85)),
        (16, 0, b"\x12\x34", b"\x12\x34", WHITE),
        (16, 0, b"\x12\x34", b"\x12\x35", (18, 18, 18)),
        # RGB.
        (8, 2, b"\1\2\3", b"\0\1\0\2\0\3", WHITE),
        (8, 2, b"\1\2\3", b"\0\1\0\2\0\4", (1, 2, 3)),
        (16, 2, b"\1\1\2\2\3\3", b"\1\1\2\2\3\3", WHITE),
        (16, 2, b"\1\1\2\2\3\3", b"\1\1\2\2\4\4", (1, 2, 3)),
    ],
)
def test_the_hidden_colour_of_a_png_is_white(
    depth: int, colour_type: int, sample: bytes, hidden: bytes, expected: tuple[int, ...]
) -> None:
    data = flat_png(sample, depth=depth, colour=colour_type, before=chunk(b"tRNS", hidden))
    assert colour(data) == expected


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), WHITE),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (0, 100, 200, 128), (127, 177, 227)),
        ("LA", (10, 0), WHITE),
        ("LA", (0, 128), (127, 127, 127)),
    ],
)
def test_alpha_is_composed_over_white(
    mode: str, pixel: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    data = saved(Image.new(mode, (64, 64), pixel), "PNG")
    np.testing.assert_allclose(colour(data), expected, atol=1)


@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_the_hidden_colour_of_a_palette_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (64, 64), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    assert colour(saved(image, "PNG", transparency=transparency)) == WHITE
    image.paste(1, (0, 0, 64, 64))
    assert colour(saved(image, "PNG", transparency=transparency)) == (0, 200, 0)


def test_webp_alpha_is_composed_over_white() -> None:
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert colour(saved(image, "WEBP", lossless=True, exact=True)) == WHITE


def test_cmyk_goes_through_its_profile() -> None:
    red, green, blue = colour(cmyk_jpeg_with_profile())
    assert red > green + 40
    assert blue > green + 40


@pytest.mark.parametrize(
    "profile",
    [b"", b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
    ids=["none", "garbage", "of another colour space"],
)
def test_cmyk_without_a_usable_profile_is_converted_plainly(profile: bytes) -> None:
    image = noise().convert("CMYK")
    data = saved(image, "JPEG", icc_profile=profile)
    np.testing.assert_array_equal(decode(data, CROP, LIMITS), prepared(opened(data)))


def test_rgb_profiles_are_ignored_as_timm_does() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    np.testing.assert_array_equal(
        decode(saved(noise(), "PNG", icc_profile=profile), CROP, LIMITS),
        decode(saved(noise(), "PNG"), CROP, LIMITS),
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "MPO"])
def test_only_the_first_frame_counts(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    both = saved(noise(), format, save_all=True, append_images=[noise(seed=1)], **options)
    one = saved(noise(), "JPEG" if format == "MPO" else format, **options)
    np.testing.assert_array_equal(decode(both, CROP, LIMITS), decode(one, CROP, LIMITS))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((1, 20, 20, 3), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((20, 20, 3), np.float32),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_pixels_of_another_shape_or_type_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidImage):
        prepare(pixels, CROP, LIMITS)


def test_pixels_need_not_be_contiguous() -> None:
    pixels = np.array(noise())[::-1, ::2]
    np.testing.assert_array_equal(
        prepare(pixels, CROP, LIMITS), prepare(pixels.copy(), CROP, LIMITS)
    )


def test_threads_do_not_disturb_each_other() -> None:
    small = [data for data in (make() for make in GOOD.values()) if len(data) < 100_000]
    hostile = [item.make() for item in HOSTILE if item.name in ("jpeg cut in half", "webp cut")]
    bodies = (small + hostile) * 5

    def outcome(data: bytes) -> bytes | str:
        try:
            return decode(data, CROP, LIMITS).tobytes()
        except RealFakeError as error:
            return error.message

    expected = [outcome(data) for data in bodies]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, bodies)) == expected
