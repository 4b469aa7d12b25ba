"""Every hostile picture of the tests, as bytes, with the error code it must end in.

tests/pictures.py has the plain ones; here are those aimed at the checks themselves: data that a
walker of markers and the decoder could read differently, and files whose cost hides where a
limit does not look at first.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests import pictures
from tests.pictures import Hostile, jpeg, noise, saved

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 1_000_000


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
    after: bytes = b"",
    idat_bytes: int = 1 << 30,
    level: int = 6,
) -> bytes:
    """A PNG made by hand.

    Args:
        size: (width, height).
        rows: the samples, each row with its filter byte in front.
        before, after: whole chunks in front of and behind the pixels.
        idat_bytes: most bytes of one IDAT chunk.
    """
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    packed = zlib.compress(rows, level)
    pixels = b"".join(
        chunk(b"IDAT", packed[at : at + idat_bytes]) for at in range(0, len(packed), idat_bytes)
    )
    return PNG_MAGIC + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND")


def flat_png(sample: bytes, *, side: int = 16, **options: int | bytes) -> bytes:
    """A square PNG of one sample (a pixel, or a byte of several pixels) repeated."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[int(options["colour"])] * int(options["depth"])
    row = (b"\0" + sample * (side * bits // 8 // len(sample))) * side
    return png((side, side), row, **options)  # type: ignore[arg-type]


def png_in_small_chunks() -> bytes:
    """An honest 9 MB PNG as libpng writes it: more than a thousand IDAT chunks of 8 KiB."""
    side = 1750
    rows = np.random.default_rng(0).integers(0, 256, (side, 1 + side * 3), dtype=np.uint8)
    rows[:, 0] = 0
    return png((side, side), rows.tobytes(), idat_bytes=8192, level=0)


def png_with_text(megabytes: int, *, behind: bool = False) -> bytes:
    """Text chunks that inflate to a megabyte each, which is as large as Pillow takes one."""
    packed = zlib.compress(b"a" * MEGABYTE, 9)
    text = chunk(b"zTXt", b"k\0\0" + packed) * megabytes
    return png(
        (16, 16), bytes(16 * 49), before=b"" if behind else text, after=text if behind else b""
    )


def png_with_empty_idats() -> bytes:
    return png((16, 16), bytes(16 * 49), after=chunk(b"IDAT") * 100_000)


def jpeg_hiding_scans(count: int, marker: int = 0x02) -> bytes:
    """Scans inside a "segment" of a reserved marker, behind a wrong restart.

    libjpeg, looking for the next restart marker, passes over the reserved one without believing
    its length, and then decodes every scan that follows.
    """
    data = saved(noise(256, 256), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    restart_each_block, never_restart = b"\xff\xdd\0\x04\0\x01", b"\xff\xdd\0\x04\0\0"
    hidden = scan * count
    lie = bytes([0xFF, marker]) + struct.pack(">H", len(hidden) + 2)
    before = data[:start] + restart_each_block + scan + b"\x12"
    return before + lie + hidden + scan + b"\x12" + never_restart + data[start:]


def jpeg_filled(filler: bytes) -> bytes:
    """Nine megabytes that mean nothing, at the end of a good scan."""
    data = jpeg()
    return data[:-2] + filler * (9 * MEGABYTE // len(filler)) + data[-2:]


def jpeg_with_junk(filler: bytes) -> bytes:
    """Nine megabytes that mean nothing, in front of the first scan."""
    data = jpeg()
    start = data.index(b"\xff\xda")
    return data[:start] + filler * (9 * MEGABYTE // len(filler)) + data[start:]


def jpeg_claiming(width: int, height: int, **options: object) -> bytes:
    data = bytearray(saved(noise(640, 480), "JPEG", **options))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with_orientation(orientation: int, image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image or noise(), "JPEG", quality=95, exif=exif.tobytes())


def jpeg_with_broken_exif(orientation: int) -> bytes:
    """An orientation beside tags that point behind the end of the file."""
    tags = struct.pack("<HHII", 0x010F, 2, 400, 0x7FFFFFFF)
    tags += struct.pack("<HHII", 0x0112, 3, 1, orientation)
    tags += struct.pack("<HHII", 0x8769, 4, 1, 0x7FFFFFF0)
    directory = b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + tags + bytes(4)
    return saved(noise(), "JPEG", exif=b"Exif\0\0" + directory)


def cmyk_profile() -> bytes:
    """An ICC profile by which all inks but black are one purple: it shows whether it was asked."""
    curve = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    purple, black = bytes([128, 178, 98]), bytes([0, 128, 128])  # Lab
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + curve * 4
    table += (purple + black) * 2**3 + curve * 3  # black ink varies fastest
    head = bytes(8) + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 1) + b"A2B0" + struct.pack(">II", 128 + 16, len(table))
    body = head.ljust(128, b"\0") + tags + table
    return struct.pack(">I", len(body)) + body[4:]


def cmyk_jpeg_with_profile() -> bytes:
    """Flat green ink, purple by its profile."""
    green = Image.new("CMYK", (64, 64), (200, 0, 200, 0))
    return saved(green, "JPEG", icc_profile=cmyk_profile())


def webp_frame_larger_than_canvas() -> bytes:
    """An extended WebP whose canvas of 64x64 is not the size of the 160x120 frame inside."""
    simple = saved(noise(), "WEBP")
    canvas = struct.pack("<I", 63)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas * 2 + simple[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_of_many_chunks() -> bytes:
    simple = saved(noise(), "WEBP")
    body = simple[8:] + b"JUNK\0\0\0\0" * 5000
    return b"RIFF" + struct.pack("<I", len(body)) + body


def sixteen_bit_rgb() -> bytes:
    samples = np.linspace(0, 65535, 16 * 48).astype(">u2").reshape(16, 48)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return png((16, 16), rows, depth=16)


GOOD: dict[str, Callable[[], bytes]] = {
    **pictures.GOOD,
    "16-bit rgb png": sixteen_bit_rgb,
    "png in 8 KiB chunks": functools.cache(png_in_small_chunks),
    "jpeg with orientation": lambda: jpeg_with_orientation(6),
    "jpeg with broken exif": lambda: jpeg_with_broken_exif(6),
    "jpeg with restart markers": lambda: jpeg(restart_marker_blocks=1),
    "jpeg of no detail": lambda: saved(Image.new("RGB", (4000, 4000)), "JPEG", optimize=True),
    "progressive jpeg of no detail": lambda: saved(
        Image.new("RGB", (4000, 4000)), "JPEG", progressive=True
    ),
    "png of no detail": lambda: saved(Image.new("1", (4000, 4000)), "PNG", compress_level=9),
}
"""Files that every check must let through."""

HOSTILE: list[Hostile] = [
    *pictures.HOSTILE,
    Hostile("jpeg hiding 500 scans", lambda: jpeg_hiding_scans(500), "IMAGE_TOO_LARGE"),
    Hostile("jpeg hiding 500 scans in BF", lambda: jpeg_hiding_scans(500, 0xBF), "IMAGE_TOO_LARGE"),
    Hostile("jpeg with a second start", lambda: jpeg_hiding_scans(1, 0xD8), "INVALID_IMAGE"),
    Hostile("jpeg with a second frame", lambda: jpeg_hiding_scans(1, 0xC0), "INVALID_IMAGE"),
    Hostile("jpeg with 9 MB of zeros", lambda: jpeg_with_junk(b"\0"), "INVALID_IMAGE"),
    Hostile("jpeg with 9 MB of fill", lambda: jpeg_with_junk(b"\xff"), "INVALID_IMAGE"),
    Hostile("jpeg claiming 4000x4000", lambda: jpeg_claiming(4000, 4000), "INVALID_IMAGE"),
    Hostile(
        "progressive jpeg claiming 4000x4000",
        lambda: jpeg_claiming(4000, 4000, progressive=True),
        "INVALID_IMAGE",
    ),
    Hostile("jpeg scan of 9 MB fill", lambda: jpeg_filled(b"\xff"), "OK"),
    Hostile("jpeg scan of 9 MB stuffing", lambda: jpeg_filled(b"\xff\0"), "OK"),
    Hostile("jpeg scan of 9 MB restarts", lambda: jpeg_filled(b"\xff\xd0"), "OK"),
    Hostile("png 5000x5000 of nothing", lambda: pictures.png_claiming(5000, 5000), "INVALID_IMAGE"),
    Hostile("png with 60 MB of text", lambda: png_with_text(60), "INVALID_IMAGE"),
    Hostile(
        "png with 60 MB of text behind", lambda: png_with_text(60, behind=True), "INVALID_IMAGE"
    ),
    Hostile("png with empty IDATs", png_with_empty_idats, "IMAGE_TOO_LARGE"),
    Hostile("webp frame beyond canvas", webp_frame_larger_than_canvas, "INVALID_IMAGE"),
    Hostile("webp of many chunks", webp_of_many_chunks, "IMAGE_TOO_LARGE"),
    Hostile(
        "gif of many frames", lambda: b"GIF89a" + b"\x08\0" * 2 + bytes(80_000), "UNSUPPORTED_MEDIA"
    ),
    Hostile("heic", lambda: b"\0\0\0\x18ftypheic" + bytes(100), "UNSUPPORTED_MEDIA"),
    Hostile("jpeg xl", lambda: b"\xff\x0a" + bytes(100), "UNSUPPORTED_MEDIA"),
]
