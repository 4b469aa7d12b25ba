"""A gRPC call whose metadata no gRPC client would send: HTTP/2 frames, by hand."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Sequence

import grpc

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4


def call(address: str, method: str, metadata: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Call `method` with an empty message; what the server sent until it closed or 5 s passed."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *metadata,
    ]
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, b"".join(_literal(*pair) for pair in headers))
            + _frame(_DATA, _END_STREAM, 1, b"\0\0\0\0\0")
        )
        return _until_stream_ends(connection)


def status(answer: bytes) -> grpc.StatusCode:
    """The status in an answer; gRPC sends its name and number as they are, not compressed."""
    (number,) = re.findall(rb"grpc-status[\x01\x02](\d+)", answer)
    return next(code for code in grpc.StatusCode if code.value[0] == int(number))


def _until_stream_ends(connection: socket.socket) -> bytes:
    received = b""
    while True:
        header = _exactly(connection, 9)
        if header is None:
            return received
        payload = _exactly(connection, int.from_bytes(header[:3], "big")) or b""
        received += header + payload
        kind, flags, stream = header[3], header[4], int.from_bytes(header[5:], "big")
        if stream == 1 and (kind == _RESET or flags & _END_STREAM):
            return received


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _literal(name: bytes, value: bytes) -> bytes:
    """HPACK: literal header field without indexing, not Huffman-coded (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    rest, size = b"", size - 127
    while size >= 128:
        rest += bytes([size % 128 + 128])
        size //= 128
    return b"\x7f" + rest + bytes([size]) + text
