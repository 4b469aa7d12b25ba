"""Connections of a test's own making: raw sockets, and a server whose limits are soon reached."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.server.process import ServerProcess, eventually

INFER = "/v2/models/realfake/infer"
MAX_CONNECTIONS = 40
REQUEST_BYTES = 1024 * 1024
PATIENCE_S = 30.0
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
T = TypeVar("T")

SMALL = {
    "REALFAKE_DECODING__WORKERS": "1",
    "REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "1",
    "REALFAKE_SERVER__KEEP_ALIVE_S": "2",
    "REALFAKE_LIMITS__MAX_IN_FLIGHT": "16",
    "REALFAKE_LIMITS__MAX_CONNECTIONS": str(MAX_CONNECTIONS),
    "REALFAKE_LIMITS__MAX_REQUEST_BYTES": str(REQUEST_BYTES),
    "REALFAKE_LIMITS__MAX_IMAGE_BYTES": str(REQUEST_BYTES),
    "REALFAKE_LIMITS__MAX_BYTES_IN_FLIGHT": str(2 * REQUEST_BYTES),
    "REALFAKE_LIMITS__MAX_HEADER_BYTES": "8192",
    "REALFAKE_LIMITS__MAX_HEADERS": "50",
    "REALFAKE_SERVER__DOCS_ENABLED": "true",
}


def connect(server: ServerProcess, protocol: str = "http") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.listening[f"{protocol}_port"]), PATIENCE_S)


def head(server: ServerProcess, *lines: str, method: str = "POST", path: str = INFER) -> bytes:
    fixed = (f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {server.api_key}")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def until_closed(raw: socket.socket) -> bytes:
    """What the server says before it closes; a reset after it ends it as well."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            parts.append(part)
    return b"".join(parts)


def statuses(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", received)]


def refusal(answer: bytes) -> str:
    """The code of a typed refusal that says it closes the connection."""
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in top.lower(), answer
    found = json.loads(body)
    assert set(found) == {"error", "code", "request_id"}
    return str(found["code"])


def drip(raw: socket.socket, data: bytes) -> bytes:
    """Send byte after byte, over and over, until the server has had enough; what it says."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for byte in data:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                raw.send(bytes([byte]))
            if select.select([raw], [], [], 0.05)[0]:
                return until_closed(raw)
    raise AssertionError("the server waits for ever")


def rss(server: ServerProcess) -> int:
    """Bytes in memory."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def descriptors(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def ended_for(server: ServerProcess, reason: str) -> None:
    """Wait until the log counts connections that ended for this reason."""

    def logged() -> bool | None:
        lines = [line for line in server.log_lines() if line["message"] == "connections ended"]
        return any(reason in line["reasons"] for line in lines) or None

    eventually(logged, PATIENCE_S, f"{reason} in the log")


def while_held(server: ServerProcess, held: list[int], attempt: Callable[[], T]) -> T:
    """What `attempt` gives while requests of `held` bytes are on their way and do not arrive."""
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            holders = [stack.enter_context(connect(server)) for _ in held]
            for holder, size in zip(holders, held, strict=True):
                holder.sendall(head(server, "Content-Type: image/jpeg", f"Content-Length: {size}"))
            for _ in range(3):  # by then the loop has seen what came before
                alive(server)
            found = attempt()
            if not select.select(holders, [], [], 0)[0]:
                return found
    raise AssertionError("this machine is too slow to look before the time is over")


def alive(server: ServerProcess) -> None:
    with connect(server) as raw:
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4)
