"""Reading untrusted JSON: every refusal names the place and the fix, and echoes next to nothing."""

from __future__ import annotations

import binascii
from typing import Any, Final

import orjson

from predictor.errors import InvalidRequest, UnsupportedMedia

ECHOED_CHARACTERS: Final = 64
"""Most characters of the client's own text in an error message."""

BASE64_CHUNK: Final = 2**20
"""Characters decoded at once, a multiple of four. binascii keeps the interpreter lock: this much
holds other threads up for 3 ms, a request of 32 MiB in one go for 0.1 s."""

_PICTURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")

_KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a floating-point number",
    bytes: "bytes",
    type(None): "null",
}


def kind(value: object) -> str:
    """Name the JSON type of `value`, for a message."""
    return _KINDS.get(type(value), "something else")


def shown(value: object) -> str:
    """Render a client's value for a message: short, control characters escaped, no payload."""
    if isinstance(value, bool) or value is None or not isinstance(value, (str, int, float)):
        return kind(value)
    text = repr(value[:ECHOED_CHARACTERS] if isinstance(value, str) else value)
    whole = not isinstance(value, str) or len(value) <= ECHOED_CHARACTERS
    if whole and len(text) <= ECHOED_CHARACTERS + 2:
        return text
    return text[:ECHOED_CHARACTERS].rstrip("'\"\\") + "…"


def parse_object(body: bytes | memoryview, what: str = "the body") -> dict[str, Any]:
    """Parse a body that must be a JSON object.

    A name that repeats counts as sent last. NaN, Infinity, numbers beyond a double,
    invalid UTF-8 and more than 1024 levels are not JSON to this parser.

    Raises:
        InvalidRequest: it is not JSON, or not an object.
        UnsupportedMedia: it is a picture.
    """
    if not body:
        raise InvalidRequest(f"{what} is empty; send a JSON object")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if bytes(body[:4]).startswith(_PICTURES):
            raise UnsupportedMedia(
                "the body is a picture, and is not called one; send Content-Type: image/jpeg"
            ) from None
        raise InvalidRequest(
            f"{what} is not valid JSON at line {error.lineno} column {error.colno} "
            "(NaN and Infinity are not JSON; text must be UTF-8)"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is {kind(value)}; must be a JSON object")
    return value


def as_object(value: object, place: str) -> dict[str, Any]:
    """Return `value`, which must be a JSON object; null counts as an empty one.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place}: is {kind(value)}; must be an object")
    return value


def as_list(value: object, place: str) -> list[Any]:
    """Return `value`, which must be a JSON list; null counts as an empty one.

    Raises:
        InvalidRequest: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{place}: is {kind(value)}; must be a list")
    return value


def as_text(value: object, place: str) -> str:
    """Return `value`, which must be a string.

    Raises:
        InvalidRequest: it is something else.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{place}: is {kind(value)}; must be a string")
    return value


def decode_base64(text: object, place: str) -> bytes:
    """Decode a picture sent as a base64 string: standard alphabet, padded, unwrapped.

    Raises:
        InvalidRequest: it is not a string, or not base64; says how to encode it.
    """
    encoded = as_text(text, place)
    try:
        return _a2b(encoded)
    except ValueError:
        raise InvalidRequest(f"{place}: {_base64_problem(encoded)}") from None


def _a2b(text: str) -> bytes:
    if len(text) <= BASE64_CHUNK:
        return binascii.a2b_base64(text, strict_mode=True)
    chunks = []
    for start in range(0, len(text), BASE64_CHUNK):
        chunk = binascii.a2b_base64(text[start : start + BASE64_CHUNK], strict_mode=True)
        if start + BASE64_CHUNK < len(text) and len(chunk) != BASE64_CHUNK // 4 * 3:
            raise ValueError("padding before the end")
        chunks.append(chunk)
    return b"".join(chunks)


def _base64_problem(text: str) -> str:
    start = text[:8].lower()
    if start.startswith("data:"):
        return "is a data: URL; send only the part after 'base64,'"
    if start.startswith(("http://", "https://")):
        return "is a URL; pictures are not fetched, send the file itself as base64"
    if any(space in text for space in "\n\r\t "):
        return "holds spaces or line breaks; encode without wrapping (base64 -w0)"
    if "-" in text or "_" in text:
        return "is URL-safe base64; encode with the standard alphabet (+ and /)"
    if len(text) % 4 and "=" not in text:
        return "is cut short or lacks its padding; send whole base64, with the '=' at its end"
    return "is not base64; encode the picture file with the standard alphabet"
