"""Resize and crop against timm itself: bit for bit, or as good as."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hack.load.pictures import photo
from hack.load.server import BUNDLE
from predictor.bundle.manifest import (
    CROP_MODES,
    INTERPOLATIONS,
    Preprocessing,
    read_manifest,
)
from predictor.inference import geometry, resampling
from predictor.inference.decoding import DecodeLimits, decode, prepare
from predictor.inference.resampling import REACH
from tests.pictures import noise, saved

timm_data = pytest.importorskip("timm.data")

NO_LIMITS = DecodeLimits(
    max_pixels=10**9, max_side=10**5, min_side=1, max_aspect_ratio=1e9, max_resized_pixels=10**9
)


def timm_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What timm would normalise, as (H, W, 3)."""
    transform: Any = timm_data.create_transform(
        input_size=(3, *preprocessing.input_size),
        is_training=False,
        use_prefetcher=True,  # uint8 out, normalised later
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    array: NDArray[np.uint8] = transform(image).numpy().transpose(1, 2, 0)
    return array


def speckle(width: int, height: int, seed: int = 0) -> Image.Image:
    """White noise: no two pixels agree, so that an offset of one shows."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def assert_same(image: Image.Image, preprocessing: Preprocessing) -> None:
    ours = geometry.crop(image, preprocessing)
    assert_as_timm(ours, timm_crop(image, preprocessing), image.size, preprocessing)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert ours.flags.owndata
    assert ours.flags.writeable


def assert_as_timm(
    ours: NDArray[np.uint8],
    timms: NDArray[np.uint8],
    size: tuple[int, int],
    preprocessing: Preprocessing,
) -> None:
    """Args: size: of the picture, which is white noise."""
    resized = geometry.resized_size(size, preprocessing)
    if preprocessing.interpolation in REACH and resized != size:
        off = np.abs(ours.astype(int) - timms)
        assert off.max() <= 2
        # In a plain ratio many values lie just between two, most of all with bilinear weights. In a
        # photograph there are few of them: `assert_next_to_nothing`. A pixel too far, in noise, is
        # tens off.
        most = 0.25 if preprocessing.interpolation == "bilinear" else 0.05
        assert np.count_nonzero(off) <= 3 + most * off.size
    else:
        np.testing.assert_array_equal(ours, timms)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "size", [(333, 251), (251, 333), (97, 61), (224, 224), (256, 256), (64, 1201)], ids=str
)
def test_every_interpolation_and_crop_mode_is_timms(
    crop_mode: str, interpolation: str, size: tuple[int, int]
) -> None:
    for input_size in [(224, 224), (96, 160), (161, 95)]:
        for crop_pct in (0.875, 1.0):
            assert_same(
                speckle(*size), Preprocessing(input_size, interpolation, crop_pct, crop_mode)
            )


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(1601, 1203), (1203, 1601)], ids=str)
def test_photographs_are_cropped_as_timm_does(crop_mode: str, size: tuple[int, int]) -> None:
    for input_size, crop_pct in [((224, 224), 0.9), ((384, 384), 1.0), ((448, 224), 0.95)]:
        assert_same(speckle(*size), Preprocessing(input_size, "bicubic", crop_pct, crop_mode))


@pytest.mark.parametrize("input_size", [(224, 224), (160, 320), (320, 160)], ids=str)
@pytest.mark.parametrize(
    "size", [(640, 480), (480, 640), (1280, 720), (720, 1280), (300, 1200), (1201, 299)], ids=str
)
def test_of_a_picture_next_to_nothing_is_rounded_the_other_way(
    size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(photo(*size, 90))) as image:
        assert_next_to_nothing(image, Preprocessing(input_size))


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "crop_mode", "whole", "part"),
    [
        ((640, 480), "center", False, False),
        ((720, 1280), "center", False, True),
        ((400, 560), "squash", True, False),
        ((400, 1201), "squash", True, True),
    ],
    ids=["neither", "part", "whole", "both"],
)
def test_the_passes_come_in_the_order_of_the_whole(
    size: tuple[int, int], crop_mode: str, interpolation: str, *, whole: bool, part: bool
) -> None:
    """Pillow begins with one direction, which the size decides, and rounds before the other."""
    preprocessing = Preprocessing((224, 224), interpolation, 0.875, crop_mode)
    resized = geometry.resized_size(size, preprocessing)
    assert geometry._vertical_first(size, resized) is whole
    assert geometry._vertical_first(size, (224, 224)) is part
    with Image.open(io.BytesIO(photo(*size, 90))) as image:
        assert_next_to_nothing(image, preprocessing)


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(640, 480), (720, 1280), (97, 61)], ids=str)
def test_where_there_is_no_build_with_simd_pillow_resizes(
    size: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_simd", {})
    assert_same(speckle(*size), Preprocessing((224, 224), interpolation))


@pytest.mark.parametrize("name", ["photo-1.jpg", "photo-2.jpg", "fake-1.jpg", "fake-2.jpg"])
def test_the_debug_bundles_samples_are_as_timm_has_them(name: str) -> None:
    with Image.open(BUNDLE / "samples" / name) as image:
        assert_next_to_nothing(image, read_manifest(BUNDLE).preprocessing)


def assert_next_to_nothing(image: Image.Image, preprocessing: Preprocessing) -> None:
    ours, timms = geometry.crop(image, preprocessing), timm_crop(image, preprocessing)
    off = np.abs(ours.astype(int) - timms)
    assert off.max() <= 2
    assert np.count_nonzero(off) <= 0.01 * off.size


@given(
    size=st.tuples(st.integers(8, 200), st.integers(8, 200)).filter(
        lambda size: max(size) <= 20 * min(size)
    ),
    input_size=st.tuples(st.integers(24, 96), st.integers(24, 96))
    | st.integers(24, 96).map(lambda side: (side, side)),
    interpolation=st.sampled_from(INTERPOLATIONS),
    crop_pct=st.sampled_from([0.85, 0.875, 0.9, 0.95, 0.965, 1.0]) | st.floats(0.3, 1.0),
    crop_mode=st.sampled_from(CROP_MODES),
    mean=st.sampled_from([(0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.0, 1.0, 0.3)]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_any_size_is_timms(
    *,
    size: tuple[int, int],
    input_size: tuple[int, int],
    interpolation: str,
    crop_pct: float,
    crop_mode: str,
    mean: tuple[float, float, float],
    seed: int,
) -> None:
    preprocessing = Preprocessing(input_size, interpolation, crop_pct, crop_mode, mean)
    assert_same(speckle(*size, seed=seed), preprocessing)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_a_file_gives_what_timm_gives_for_it(format: str, crop_mode: str) -> None:
    data = saved(noise(301, 203), format)
    preprocessing = Preprocessing((128, 128), crop_mode=crop_mode)
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    expected = timm_crop(image, preprocessing)
    ours = decode(data, preprocessing, NO_LIMITS)
    assert_as_timm(ours, expected, image.size, preprocessing)
    np.testing.assert_array_equal(prepare(np.array(image), preprocessing, NO_LIMITS), ours)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)], ids=str)
def test_a_sliver_still_has_a_pixel_after_resizing(crop_mode: str, size: tuple[int, int]) -> None:
    preprocessing = Preprocessing((32, 48), crop_mode=crop_mode)
    assert min(geometry.resized_size(size, preprocessing)) >= 1


@given(
    size=st.tuples(st.integers(8, 400), st.integers(8, 400)),
    input_size=st.tuples(st.integers(24, 96), st.integers(24, 96)),
    crop_mode=st.sampled_from(CROP_MODES),
)
@settings(max_examples=100, deadline=None)
def test_the_checked_size_is_the_size_that_timm_resizes_to(
    size: tuple[int, int], input_size: tuple[int, int], crop_mode: str
) -> None:
    preprocessing = Preprocessing(input_size, "nearest", 0.9, crop_mode)
    transform: Any = timm_data.create_transform(
        input_size=(3, *input_size), interpolation="nearest", crop_pct=0.9, crop_mode=crop_mode
    )
    width, height = geometry.resized_size(size, preprocessing)
    if min(width, height) > 1:  # timm would make nothing of the thinnest ones
        assert transform.transforms[0](Image.new("RGB", size)).size == (width, height)
