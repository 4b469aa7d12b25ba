"""Picture files for tests: good ones of every kind, and hostile ones with what they must get."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


def noise(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """A soft random picture: compresses like a photograph, not like paper."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return saved(noise(), "JPEG", quality=90, **options)


def mpo() -> bytes:
    """What phones write: a JPEG with a second picture behind it."""
    return saved(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])


GOOD: dict[str, Callable[[], bytes]] = {
    "jpeg": jpeg,
    "progressive jpeg": lambda: jpeg(progressive=True),
    "grey jpeg": lambda: saved(noise().convert("L"), "JPEG"),
    "cmyk jpeg": lambda: saved(noise().convert("CMYK"), "JPEG"),
    "mpo": mpo,
    "jpeg with trailing bytes": lambda: jpeg() + b"\xff\xda" * 500,
    "png": lambda: saved(noise(), "PNG"),
    "1-bit png": lambda: saved(noise().convert("1"), "PNG"),
    "palette png": lambda: saved(noise().convert("P"), "PNG"),
    "palette png with transparency": lambda: saved(noise().convert("P"), "PNG", transparency=0),
    "rgba png": lambda: saved(noise().convert("RGBA"), "PNG"),
    "grey alpha png": lambda: saved(noise().convert("LA"), "PNG"),
    "16-bit png": lambda: saved(
        Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)), "PNG"
    ),
    "animated png": lambda: saved(
        noise(), "PNG", save_all=True, append_images=[noise(seed=1), noise(seed=2)]
    ),
    "webp": lambda: saved(noise(), "WEBP"),
    "lossless webp": lambda: saved(noise(), "WEBP", lossless=True),
    "webp with alpha": lambda: saved(noise().convert("RGBA"), "WEBP"),
    "animated webp": lambda: saved(noise(), "WEBP", save_all=True, append_images=[noise(seed=1)]),
}


@dataclass(frozen=True, slots=True)
class Hostile:
    """Attributes: code: the error code it must end in, or OK where it is harmless here."""

    name: str
    make: Callable[[], bytes]
    code: str


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + body + _png_chunk(b"IEND", b"")


def webp_claiming(width: int, height: int) -> bytes:
    """The header of a lossless WebP, with next to nothing behind it."""
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", 14) + b"\x2f" + bits + b"\0" * 9
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg_claiming(width: int, height: int) -> bytes:
    """A real 160x120 JPEG whose header tells of another size."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + (data[last:-2]) * count + data[-2:]


def jpeg_with_markers(total_bytes: int) -> bytes:
    data = jpeg()
    return data[:2] + b"\xff\xe1\x00\x02" * (total_bytes // 4) + data[2:]


def png_with_chunks(count: int) -> bytes:
    data = saved(noise(), "PNG")
    return data[:33] + _png_chunk(b"teXt", b"") * count + data[33:]


def png_text_bomb(kind: bytes) -> bytes:
    data = saved(noise(), "PNG")
    packed = zlib.compress(b"\0" * (64 * 1024 * 1024), 9)
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}
    return data[:33] + _png_chunk(kind, heads[kind] + packed) + data[33:]


def corrupt_scan() -> bytes:
    data = bytearray(jpeg())
    middle = data.index(b"\xff\xda") + 200
    data[middle : middle + 40] = bytes(range(40))
    return bytes(data)


HOSTILE: list[Hostile] = [
    Hostile("empty", lambda: b"", "INVALID_IMAGE"),
    Hostile("random bytes", lambda: np.random.default_rng(3).bytes(2000), "UNSUPPORTED_MEDIA"),
    Hostile("html", lambda: b"<html><body>not here</body></html>", "UNSUPPORTED_MEDIA"),
    Hostile("png claiming 50000x50000", lambda: png_claiming(50000, 50000), "IMAGE_TOO_LARGE"),
    Hostile("png claiming 0x0", lambda: png_claiming(0, 0), "INVALID_IMAGE"),
    Hostile(
        "png 1-bit 9459x9459",
        lambda: png_claiming(9459, 9459, depth=1, colour=0),
        "IMAGE_TOO_LARGE",
    ),
    Hostile("png 1x5000", lambda: png_claiming(1, 5000), "INVALID_IMAGE"),
    Hostile("png 1x100000", lambda: png_claiming(1, 100000), "INVALID_IMAGE"),
    Hostile("png 10x5000", lambda: png_claiming(10, 5000), "IMAGE_TOO_LARGE"),
    Hostile("png 6000x6000", lambda: png_claiming(6000, 6000), "IMAGE_TOO_LARGE"),
    Hostile("png with little data", lambda: png_claiming(640, 480), "INVALID_IMAGE"),
    Hostile("png cut in half", lambda: saved(noise(), "PNG")[:4000], "INVALID_IMAGE"),
    Hostile("png with 5,000 chunks", lambda: png_with_chunks(5000), "IMAGE_TOO_LARGE"),
    Hostile("zTXt bomb", lambda: png_text_bomb(b"zTXt"), "INVALID_IMAGE"),
    Hostile("iTXt bomb", lambda: png_text_bomb(b"iTXt"), "INVALID_IMAGE"),
    Hostile("iCCP bomb", lambda: png_text_bomb(b"iCCP"), "INVALID_IMAGE"),
    Hostile("webp 13000x13000", lambda: webp_claiming(13000, 13000), "IMAGE_TOO_LARGE"),
    Hostile("webp with no data", lambda: webp_claiming(100, 100), "INVALID_IMAGE"),
    Hostile("webp cut", lambda: saved(noise(), "WEBP")[:200], "INVALID_IMAGE"),
    Hostile("jpeg claiming 13000x13000", lambda: jpeg_claiming(13000, 13000), "IMAGE_TOO_LARGE"),
    Hostile("jpeg with 1,000 scans", lambda: jpeg_with_scans(1000), "IMAGE_TOO_LARGE"),
    Hostile("jpeg with 9 MB of markers", lambda: jpeg_with_markers(9_000_000), "IMAGE_TOO_LARGE"),
    Hostile("jpeg cut in half", lambda: jpeg()[: len(jpeg()) // 2], "INVALID_IMAGE"),
    Hostile("jpeg header only", lambda: jpeg()[:20], "INVALID_IMAGE"),
    Hostile("jpeg with corrupt scan bytes", corrupt_scan, "OK"),
    Hostile(
        "larger than the limit", lambda: jpeg() + b"\0" * (10 * 1024 * 1024), "PAYLOAD_TOO_LARGE"
    ),
    Hostile("gif", lambda: saved(noise(), "GIF"), "UNSUPPORTED_MEDIA"),
    Hostile(
        "gif 13000x13000",
        lambda: b"GIF89a" + struct.pack("<HH", 13000, 13000) + b"\0" * 33,
        "UNSUPPORTED_MEDIA",
    ),
    Hostile("tiff", lambda: saved(noise(), "TIFF"), "UNSUPPORTED_MEDIA"),
    Hostile("bmp", lambda: saved(noise(), "BMP"), "UNSUPPORTED_MEDIA"),
    Hostile("jpeg 2000", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 100, "UNSUPPORTED_MEDIA"),
    Hostile("avif", lambda: b"\0\0\0\x20ftypavif" + b"\0" * 100, "UNSUPPORTED_MEDIA"),
    Hostile("svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "UNSUPPORTED_MEDIA"),
    Hostile("pdf", lambda: b"%PDF-1.7\n" + b"x" * 100, "UNSUPPORTED_MEDIA"),
]
