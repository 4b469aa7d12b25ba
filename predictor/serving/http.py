"""An HTTP request and its answer, as the routes see them; and reading a body safely."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson

from predictor.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMedia
from predictor.serving.byte_budget import Hold

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

JSON: Final = "application/json"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib's window setting for "tell gzip and zlib apart by their header"."""

_LENGTH_DIGITS: Final = 19
"""Of 2^63, the largest size of anything."""
INFLATE_STEP: Final = 4 * 1024 * 1024
"""Bytes to inflate before asking whether there is room for more."""


class ClientDisconnected(Exception):
    """The caller hung up: nobody is left to answer."""


@dataclass(slots=True)
class HttpRequest:
    """One request, its body read and decompressed.

    Attributes:
        headers: lower-case names; the first value where a name repeats.
        arrived: `time.monotonic()` when the headers were read.
        deadline: `time.monotonic()` by which to answer.
        key_id: of the caller's API key; None where none is asked for.
    """

    method: str
    path_params: dict[str, str]
    headers: dict[str, str]
    request_id: str
    arrived: float
    deadline: float
    key_id: str | None = None
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """The media type without parameters, lower case; empty when none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, status: int = 200) -> HttpResponse:
        return cls(orjson.dumps(value), status)


def content_length(headers: Mapping[str, str]) -> int | None:
    """The Content-Length header; None without one, or with more digits than a size has.

    The parser takes any number of leading zeros, and so long a number Python does not.
    """
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= _LENGTH_DIGITS else None


async def read_body(
    receive: Receive,
    *,
    limit: int,
    timeout_s: float | None,
    length: int | None,
    hold: Hold,
    taken_s: float = 0.0,
) -> bytes:
    """Read a request body that may be hostile.

    Args:
        limit: most bytes to hold.
        timeout_s: the whole request must be here by then; None where it is.
        length: what Content-Length says, so that an oversized body is refused unread.
        hold: grows with what is held.
        taken_s: of `timeout_s`, what the head has used.

    Raises:
        PayloadTooLarge, RequestTimeout, Overloaded, ClientDisconnected.
    """
    if length is not None:
        if length > limit:
            raise PayloadTooLarge(_too_large(limit))
        hold.cover(length)
    waiting = nullcontext() if timeout_s is None else asyncio.timeout(timeout_s - taken_s)
    try:
        async with waiting:
            chunks = await _chunks(receive, limit, hold)
    except TimeoutError:
        raise RequestTimeout(
            f"the request did not arrive within {timeout_s:g} s (limits.receive_timeout_s)"
        ) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _chunks(receive: Receive, limit: int, hold: Hold) -> list[bytes]:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(_too_large(limit))
        hold.cover(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks


async def decompress(body: bytes, encoding: str | None, *, limit: int, hold: Hold) -> bytes:
    """Undo `Content-Encoding: gzip` or `deflate`, in a thread, up to `limit` bytes.

    Raises:
        UnsupportedMedia: another encoding.
        InvalidRequest: the body is not what its encoding says, or is cut short.
        PayloadTooLarge: it grows past `limit`.
        Overloaded: `hold` cannot grow with it.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMedia("Content-Encoding must be gzip, deflate or identity")
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    parts: list[bytes] = []
    size, rest = 0, body
    while not inflater.eof:
        try:
            part = await asyncio.to_thread(inflater.decompress, rest, INFLATE_STEP)
        except zlib.error:
            raise InvalidRequest(
                "the body is not the gzip or deflate data that Content-Encoding says"
            ) from None
        if not part:
            break
        size += len(part)
        if size > limit:
            raise PayloadTooLarge(_too_large(limit) + " after decompression")
        hold.cover(len(body) + size)
        parts.append(part)
        rest = inflater.unconsumed_tail
    if not inflater.eof or inflater.unused_data:
        raise InvalidRequest("the compressed body is cut short or followed by other bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def drain(receive: Receive, *, limit: int, timeout_s: float) -> bool:
    """Read and forget what a refused caller still sends; return whether that was all of it.

    Closing a socket with unread bytes makes the kernel reset it, and the caller then loses
    the answer that says why. Bounded: a caller that goes on is cut off.
    """
    seen = 0
    stop_at = time.monotonic() + timeout_s
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + timeout_s):
            while seen < limit and time.monotonic() < stop_at:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                if not message.get("more_body", False):
                    return True
                seen += len(message.get("body", b""))
    except TimeoutError:
        pass
    return False


def _too_large(limit: int) -> str:
    return f"the request body is larger than {limit} bytes (limits.max_request_bytes)"
