"""An HTTP answer leaves in one piece.

uvicorn writes its head and its body apart: two system calls, and two packets that each wake the
peer. To a refusal, which does little else, that matters (docs/decisions/0006).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class OneWrite:
    """Stands in for the transport of one request's answer, and holds its head until the body."""

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport
        self._head: bytes | None = None
        self._then = cycle.on_response
        cycle.on_response = self._complete

    def write(self, data: bytes) -> None:
        # Before an answer there may be "100 Continue".
        answering = self._cycle.response_started and self._cycle.scope["method"] != "HEAD"
        if answering and self._head is None:
            self._head = data
        else:
            self._flush(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _complete(self) -> None:
        self._flush()  # an answer to HEAD has no body
        # An idle connection would keep what is unread of it, and what is known of it.
        self._cycle.body = bytearray()
        self._cycle.scope["state"].clear()
        self._then()

    def _flush(self, data: bytes = b"") -> None:
        held, self._head = self._head or b"", b""
        if (held or data) and not self._transport.is_closing():
            self._transport.write(held + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
