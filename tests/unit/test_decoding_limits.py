"""What is refused, at which limit, with which error, and what the refusal may cost."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from predictor.bundle.manifest import Preprocessing
from predictor.errors import ImageTooLarge, InvalidImage, PayloadTooLarge, WireError
from predictor.inference.decoding import DecodeLimits, decode, prepare
from tests.hostile import GOOD, HOSTILE, jpeg_hiding_scans, jpeg_with_orientation
from tests.pictures import Hostile, jpeg, mpo, noise, png_with_chunks

SIZE = (32, 48)
CROP = Preprocessing(SIZE)
LIMITS = DecodeLimits()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_pictures_end_in_their_typed_error(hostile: Hostile) -> None:
    if hostile.code == "OK":
        assert decode(hostile.make(), CROP, LIMITS).shape == (*SIZE, 3)
        return
    with pytest.raises(WireError) as refused:
        decode(hostile.make(), CROP, LIMITS)
    assert refused.value.code == hostile.code
    # Nothing of Pillow's own words, nor of the addresses in them, reaches the caller.
    assert not re.search(r"PIL|BytesIO|0x[0-9a-f]{6}|Error", refused.value.message)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "png", "webp", "lossless webp"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.8, 0.95])
def test_a_file_cut_short_is_refused(name: str, share: float) -> None:
    data = GOOD[name]()
    with pytest.raises(InvalidImage):
        decode(data[: int(len(data) * share)], CROP, LIMITS)


# Limits: what is just allowed, and one more.


def test_bytes_are_limited() -> None:
    data = jpeg()
    decode(data, CROP, replace(LIMITS, max_bytes=len(data)))
    with pytest.raises(PayloadTooLarge, match="max_image_bytes"):
        decode(data, CROP, replace(LIMITS, max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    ("allowed", "refused", "error", "says"),
    [
        ({"max_pixels": 160 * 120}, {"max_pixels": 160 * 120 - 1}, ImageTooLarge, "max_pixels"),
        ({"max_side": 160}, {"max_side": 159}, ImageTooLarge, "max_side"),
        ({"min_side": 120}, {"min_side": 121}, InvalidImage, "at least 121"),
        (
            {"max_aspect_ratio": 160 / 120},
            {"max_aspect_ratio": 1.33},
            ImageTooLarge,
            "max_aspect_ratio",
        ),
        # Short side 36 for 32 rows at 0.875; timm fits the picture around 36x54: 54x40.
        (
            {"max_resized_pixels": 54 * 40},
            {"max_resized_pixels": 54 * 40 - 1},
            ImageTooLarge,
            "max_resized_pixels",
        ),
    ],
)
def test_sizes_are_limited_for_files_and_pixels(
    allowed: dict[str, float], refused: dict[str, float], error: type[WireError], says: str
) -> None:
    data, pixels = jpeg(), np.array(noise())
    roomy, tight = replace(LIMITS, **allowed), replace(LIMITS, **refused)  # type: ignore[arg-type]
    decode(data, CROP, roomy)
    prepare(pixels, CROP, roomy)
    with pytest.raises(error, match=says):
        decode(data, CROP, tight)
    with pytest.raises(error, match=says):
        prepare(pixels, CROP, tight)


def test_scans_are_limited() -> None:
    data = jpeg(progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 1
    decode(data, CROP, replace(LIMITS, max_jpeg_scans=scans))
    with pytest.raises(ImageTooLarge, match="max_jpeg_scans"):
        decode(data, CROP, replace(LIMITS, max_jpeg_scans=scans - 1))


def test_scans_of_a_second_picture_are_not_counted() -> None:
    data = mpo()
    assert data.count(b"\xff\xda") == 2
    decode(data, CROP, replace(LIMITS, max_jpeg_scans=1))


def test_scans_that_only_the_decoder_sees_are_counted() -> None:
    # The hidden one and those of the picture (10) beside the two around the lie.
    decode(jpeg_hiding_scans(1), CROP, replace(LIMITS, max_jpeg_scans=13))
    with pytest.raises(ImageTooLarge, match="max_jpeg_scans"):
        decode(jpeg_hiding_scans(1), CROP, replace(LIMITS, max_jpeg_scans=12))


def test_chunks_are_limited() -> None:
    data = png_with_chunks(20)
    decode(data, CROP, replace(LIMITS, max_segments=21 + data.count(b"IDAT")))
    with pytest.raises(ImageTooLarge, match="max_segments"):
        decode(data, CROP, replace(LIMITS, max_segments=20))


def test_segments_are_limited() -> None:
    data = jpeg()
    tables = sum(data.count(bytes([0xFF, kind])) for kind in (0xE0, 0xDB, 0xC0, 0xC4, 0xDA))
    decode(data, CROP, replace(LIMITS, max_segments=tables))
    with pytest.raises(ImageTooLarge, match="max_segments"):
        decode(data, CROP, replace(LIMITS, max_segments=tables - 1))


def test_the_size_after_resizing_is_that_of_the_upright_picture() -> None:
    wide = Preprocessing((32, 512))
    limits = replace(LIMITS, max_resized_pixels=1_000_000)
    tall_when_upright = jpeg_with_orientation(6, noise(2000, 100))
    wide_when_upright = jpeg_with_orientation(6, noise(100, 2000))
    with pytest.raises(ImageTooLarge, match="max_resized_pixels"):
        decode(tall_when_upright, wide, limits)
    assert decode(wide_when_upright, wide, limits).shape == (32, 512, 3)


def test_running_out_of_memory_is_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", exhausted)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhausted)
    with pytest.raises(MemoryError):
        decode(jpeg(), CROP, LIMITS)


WATCHED = """
import sys
from pathlib import Path
from predictor.bundle.manifest import Preprocessing
from predictor.errors import WireError
from predictor.inference.decoding import DecodeLimits, decode

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes(), Preprocessing((224, 224)), DecodeLimits())
    except WireError:
        continue
    sys.exit(f"{path.name} was accepted")
print(peak() - before, "PIL.FliImagePlugin" in sys.modules)
"""


def reports_peak_memory() -> bool:
    status = Path("/proc/self/status")
    return status.is_file() and "VmHWM:" in status.read_text()


@pytest.mark.skipif(not reports_peak_memory(), reason="this kernel reports no peak memory")
def test_refusals_take_little_memory_and_run_no_other_plugin(tmp_path: Path) -> None:
    for hostile in HOSTILE:
        if hostile.code != "OK":
            (tmp_path / hostile.name.replace("/", "-")).write_bytes(hostile.make())
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    megabytes, others = done.stdout.split()
    assert int(megabytes) < 64
    assert others == "False"
