"""What a file says about itself, read without decoding it and without trusting it.

Runs before Pillow sees a byte: format by its first bytes, width and height from the header, and
the number of parts, each of which costs a decoder time (a 92 KB progressive JPEG with 1,000
scans takes Pillow 15 s). Formats: JPEG (ITU T.81), PNG (W3C PNG 3), WebP (RFC 9649).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from predictor.errors import ImageTooLarge, InvalidImage, UnsupportedMedia

Format: TypeAlias = Literal["JPEG", "PNG", "WEBP"]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_OTHERS: Final = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"8BPS", "Photoshop"),
)
_BASE64: Final = (b"/9j/", b"iVBORw0KGgo", b"UklGR")
"""How JPEG, PNG and WebP begin there."""
_STILLS: Final = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
_CUT: Final = "the picture is cut short or damaged; send the whole file"

_JPEG_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""A marker that libjpeg would stop at.

Passes over entropy-coded data with its stuffed zeros and restart markers, and over the reserved
markers 01 to BF: after a wrong restart libjpeg looks for the next marker *behind* them, so that to
trust a length there would let any number of scans hide inside."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LEAST_BITS_A_BLOCK: Final = {0xC0: 2, 0xC1: 2, 0xC2: 1}
"""By frame type, Huffman-coded ones: a block of 8x8 has at least one bit for its mean and, where
it is not spread over scans, one for "no more". Arithmetic coding knows no such floor."""
_MAX_JUNK: Final = 65_536
"""Bytes outside segments before the first scan, which Pillow skips one by one in Python."""

_DEFLATE_RATIO: Final = 1032
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BULK: Final = 4096
"""libpng writes pixels in chunks of 8 KiB, so a good 10 MB file has more than a thousand; chunks
of at least this size are bounded by the size of the file instead."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file claims to be.

    Attributes:
        width, height: in pixels, before any rotation.
        depth: bits a sample: 1, 2, 4, 8 or 16.
        complete: False where so many pixels cannot come out of so few bytes.
    """

    format: Format
    width: int
    height: int
    depth: int = 8
    complete: bool = True


def sniff(data: memoryview, *, max_segments: int, max_scans: int) -> Header:
    """Read the header and count the parts, in at most some 100 ms for 10 MB.

    Args:
        data: bytes, contiguous.

    Raises:
        UnsupportedMedia: not JPEG, PNG or WebP.
        InvalidImage: empty, cut short, or structurally wrong.
        ImageTooLarge: more segments, chunks or scans than allowed.
    """
    head = bytes(data[:32])
    if not head:
        raise InvalidImage("the picture is empty; send the bytes of a JPEG, PNG or WebP file")
    if head.startswith(b"\xff\xd8"):
        return _jpeg(data, max_segments, max_scans)
    if head.startswith(_PNG):
        return _png(data, max_segments)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(data, max_segments)
    if head.startswith(_BASE64):
        raise UnsupportedMedia(
            "this is base64 of a picture; send the bytes themselves, or in JSON encode them once"
        )
    raise UnsupportedMedia(f"{_name(head)} is not read here; send JPEG, PNG or WebP")


def _name(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "AVIF or HEIC" if head[8:12] in _STILLS else "video"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    return "this format"


class _Segment(NamedTuple):
    """Attributes: gap: bytes between the segment before and this one; marker: -1 at the end."""

    gap: int
    marker: int
    body: memoryview


def _jpeg(data: memoryview, max_segments: int, max_scans: int) -> Header:
    frame: _Segment | None = None
    scans = junk = scan_bytes = 0
    for count, segment in enumerate(_jpeg_segments(data)):
        if count >= max_segments and segment.marker >= 0:
            raise _too_many("segments", max_segments, "limits.max_segments")
        if scans:
            scan_bytes += segment.gap
        else:
            junk += segment.gap
        if junk > _MAX_JUNK:
            raise InvalidImage(_CUT)
        if segment.marker in _FRAMES:
            if frame is not None:
                raise InvalidImage(_CUT)
            frame = segment
        elif segment.marker == _SOS:
            scans += 1
            if scans > max_scans:
                raise _too_many("scans", max_scans, "limits.max_jpeg_scans")
    if frame is None or scans == 0:
        raise InvalidImage(_CUT)
    return _jpeg_header(frame, scan_bytes)


def _jpeg_segments(data: memoryview) -> Iterator[_Segment]:
    """Yield the segments of the first picture, then an empty one for what follows the last.

    What comes after the end-of-image marker is another picture (MPO) or nothing to us. Without
    one, Pillow decides whether the data suffices.
    """
    end = 2
    while True:
        found = _JPEG_MARKER.search(data, end)
        at = found.start() if found else len(data)
        marker = data[at + 1] if at < len(data) else _EOI
        if marker == _EOI:
            yield _Segment(at - end, -1, data[:0])
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOI or length < 2 or at + 2 + length > len(data):
            raise InvalidImage(_CUT)
        yield _Segment(at - end, marker, data[at + 4 : at + 2 + length])
        end = at + 2 + length


def _jpeg_header(frame: _Segment, scan_bytes: int) -> Header:
    body = frame.body
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise InvalidImage(_CUT)
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = [(body[at] >> 4, body[at] & 15) for at in range(7, 7 + 3 * body[5], 3)]
    if not sampling or not all(across and down for across, down in sampling):
        raise InvalidImage(_CUT)
    most_across = max(across for across, _ in sampling)
    most_down = max(down for _, down in sampling)
    blocks = sum(
        -(-width * across // (8 * most_across)) * -(-height * down // (8 * most_down))
        for across, down in sampling
    )
    least_bits = blocks * _LEAST_BITS_A_BLOCK.get(frame.marker, 0)
    return Header("JPEG", width, height, complete=scan_bytes * 8 >= least_bits)


def _png(data: memoryview, max_chunks: int) -> Header:
    if bytes(data[12:16]) != b"IHDR" or len(data) < 33:
        raise InvalidImage(_CUT)
    at, counted, packed = 8, 0, 0
    while True:
        if at + 12 > len(data):
            raise InvalidImage(_CUT)  # IEND has not come yet
        length = int.from_bytes(data[at : at + 4], "big")
        kind = bytes(data[at + 4 : at + 8])
        if kind == b"IEND":
            break
        is_pixels = kind == b"IDAT"
        packed += length if is_pixels else 0
        counted += 0 if is_pixels and length >= _BULK else 1
        if counted > max_chunks:
            raise _too_many("chunks", max_chunks, "limits.max_segments")
        at += 12 + length
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth = data[24]
    least_bytes = width * height * depth * _CHANNELS.get(data[25], 0) // 8
    return Header("PNG", width, height, depth, packed * _DEFLATE_RATIO >= least_bytes)


def _webp(data: memoryview, max_chunks: int) -> Header:
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < 30 or end > len(data):
        raise InvalidImage(_CUT)
    at = 12
    for _ in range(max_chunks):
        if at + 8 > end:
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    else:
        raise _too_many("chunks", max_chunks, "limits.max_segments")
    return Header("WEBP", *_webp_size(data))


def _webp_size(data: memoryview) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        # The canvas, which the decoder allocates; libwebp refuses a frame that leaves it.
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return (
            int.from_bytes(data[26:28], "little") & 0x3FFF,
            int.from_bytes(data[28:30], "little") & 0x3FFF,
        )
    raise InvalidImage(_CUT)


def _too_many(parts: str, limit: int, setting: str) -> ImageTooLarge:
    return ImageTooLarge(f"the picture has more than {limit} {parts} ({setting}); save it anew")
