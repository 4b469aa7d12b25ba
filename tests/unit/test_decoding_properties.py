"""Damaged files of every kind: a crop or a typed error, nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.bundle.manifest import Preprocessing
from predictor.errors import ImageTooLarge, InvalidImage, PayloadTooLarge, UnsupportedMedia
from predictor.inference.decoding import DecodeLimits, decode
from tests.hostile import GOOD, cmyk_jpeg_with_profile

TYPED = (InvalidImage, ImageTooLarge, PayloadTooLarge, UnsupportedMedia)
FILES = [data for data in (make() for make in GOOD.values()) if len(data) < 30_000]
FILES.append(cmyk_jpeg_with_profile())
# Small, so that what comes through by accident costs little.
LIMITS = DecodeLimits(max_pixels=300_000, max_bytes=200_000)
CROP = Preprocessing((24, 40), crop_mode="center")

Damage: TypeAlias = Callable[[bytearray], None]


def overwrite(at: int, data: bytes) -> Damage:
    def damage(file: bytearray) -> None:
        start = at % max(1, len(file))
        file[start : start + len(data)] = data

    return damage


def insert(at: int, data: bytes) -> Damage:
    def damage(file: bytearray) -> None:
        start = at % max(1, len(file))
        file[start:start] = data

    return damage


def cut(at: int, length: int) -> Damage:
    def damage(file: bytearray) -> None:
        start = at % max(1, len(file))
        del file[start : start + length]

    return damage


def splice(at: int, other: bytes) -> Damage:
    def damage(file: bytearray) -> None:
        file[at % max(1, len(file)) :] = other[at % len(other) :]

    return damage


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks claim to be undamaged, so that the damage gets past the first look."""
    file, at = bytearray(data), 8
    while at + 12 <= len(file):
        end = at + 8 + int.from_bytes(file[at : at + 4], "big")
        if end + 4 > len(file):
            break
        file[end : end + 4] = struct.pack(">I", zlib.crc32(file[at + 4 : end]))
        at = end + 4
    return bytes(file)


# The beginning of a file says what the rest means: most damage goes there.
place = st.integers(0, 700) | st.integers(0, 30_000)
NUMBERS = (b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
MARKERS = (b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xdd\0\4\0\1", b"\xff\2")
CHUNKS = (b"IDAT", b"IEND", b"tRNS", b"acTL", b"VP8X", b"ANMF")
telling = st.sampled_from(NUMBERS + MARKERS + CHUNKS)
damage = st.one_of(
    st.builds(overwrite, place, st.binary(min_size=1, max_size=4) | telling),
    st.builds(insert, place, st.binary(min_size=1, max_size=40) | telling),
    st.builds(cut, place, st.integers(1, 2000)),
    st.builds(splice, place, st.sampled_from(FILES)),
)


# In production Pillow's warnings are warnings.
@pytest.mark.filterwarnings("ignore")
@given(
    file=st.sampled_from(FILES),
    damages=st.lists(damage, min_size=1, max_size=5),
    checksums=st.booleans(),
)
@settings(max_examples=800, deadline=None)
def test_damaged_files_end_in_a_crop_or_a_typed_error(
    file: bytes, damages: list[Damage], checksums: bool
) -> None:
    damaged = bytearray(file)
    for one in damages:
        one(damaged)
    data = bytes(damaged)
    if checksums and data.startswith(b"\x89PNG"):
        data = with_right_checksums(data)
    try:
        crop = decode(data, CROP, LIMITS)
    except TYPED:
        return
    assert crop.shape == (24, 40, 3)
    assert crop.dtype == np.uint8


@pytest.mark.filterwarnings("ignore")
@given(
    head=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
    | st.sampled_from([b"RIFF\x40\0\0\0WEBPVP8X", b"RIFF\x40\0\0\0WEBPVP8L", b"\0\0\0\x20ftyp"]),
    tail=st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_end_in_a_typed_error(head: bytes, tail: bytes) -> None:
    with pytest.raises(TYPED):
        decode(head + tail, CROP, LIMITS)
