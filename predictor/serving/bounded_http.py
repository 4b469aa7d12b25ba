"""One HTTP connection that may be slow, greedy or broken: uvicorn's protocol, with bounds.

uvicorn bounds an idle connection that has answered before, and nothing else: not the time or the
size of a request's head, not the number of connections or of pipelined requests, not the time an
answer may lie unread. The body's time and size are the edge's to bound (serving/http.py).

The names of uvicorn that are overridden or read here are held by tests/contract/test_uvicorn.py.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from predictor.errors import InvalidRequest, Overloaded, RequestTimeout, WireError
from predictor.serving.connections import Connections
from predictor.serving.error_answer import error_body, error_headers
from predictor.serving.http import JSON
from predictor.serving.one_write import OneWrite
from predictor.serving.request_parser import RequestParser

MAX_PIPELINED: Final = 16
"""Requests that may wait behind the one being answered. Browsers and proxies send none; what
arrives in one packet is parsed at once, and 256 KiB hold 14,000 of them."""

# What uvicorn warns of is what strangers sent: it is counted here, or a flood of them is a flood
# of log lines.
_uvicorn_log = logging.getLogger("predictor.connections.uvicorn")
_uvicorn_log.setLevel(logging.ERROR)


class _Refused(Exception):
    """Stops the parser."""


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, shared: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.logger = _uvicorn_log
        # uvicorn declares httptools' class; ours has the methods that it calls.
        self.parser: RequestParser = RequestParser(self)  # type: ignore[assignment]  # see above
        self._shared = shared
        self._limits = shared.limits
        self._refusal: WireError | None = None
        self._awaited_since: float | None = None  # when the head now awaited began to be
        self._began = False  # whether a byte of it is here
        self._head_bytes = 0
        self._head_fields = 0
        self._unparsed = 0  # bytes since the last that belonged to a head or body
        self._unsent_since: float | None = None
        self._answering: RequestResponseCycle | None = None  # the last that was begun with
        self._deaf = False  # what arrives is not read any more; an answer is still owed

    # The connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._awaited_since = self.loop.time()
        if self._shared.admit(self):
            self._shared.idle[self] = None
        else:
            self._refuse(Overloaded("too many connections are open; retry later"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.forget(self)
        super().connection_lost(exc)
        if self._answering is not None:  # uvicorn tells the newest, which may wait behind it
            self._answering.disconnected = True

    def check(self, now: float) -> None:
        """End what has taken too long. Called about every second."""
        patience = self._limits.receive_timeout_s
        if self.transport.get_write_buffer_size() == 0:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        elif now - self._unsent_since > patience:
            self._shared.count("answer_not_read")
            self.transport.abort()
            return
        if self.transport.is_closing() or self._awaited_since is None or self.flow.read_paused:
            return
        if now - self._awaited_since > patience:
            if self._began:
                self._refuse(
                    RequestTimeout(
                        f"the request's head did not arrive within {patience:g} s "
                        "(limits.receive_timeout_s)"
                    )
                )
            else:
                self.drop("no_request")

    def drop(self, reason: str) -> None:
        """Close without a word, and without waiting for the peer to read what is unsent."""
        self._shared.count(reason)
        self._shared.idle.pop(self, None)
        self.transport.abort()

    # What arrives

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._deaf:
            return
        if self._awaited_since is None and self.is_between:
            self._awaited_since = self.loop.time()
        self._began = True
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > self._limits.max_header_bytes and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._head_fields = 0
        self._began = True
        if self._awaited_since is None:
            self._awaited_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.max_header_bytes:
            self._stop(self._too_large())
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_fields += 1
        self._head_bytes += len(name) + len(value)
        if self._head_fields > self._limits.max_headers:
            self._stop(
                InvalidRequest(
                    f"the request has more than {self._limits.max_headers} headers "
                    "(limits.max_headers)"
                )
            )
        if self._head_bytes > self._limits.max_header_bytes:
            self._stop(self._too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(InvalidRequest("too many pipelined requests; wait for the answers"))
        if self.parser.should_upgrade() and self._has_body():
            # The parser would take the body for what comes after an upgrade, and leave it out.
            if self.parser.get_method() == b"CONNECT":
                self._stop(InvalidRequest("CONNECT has no body; there is nothing to connect to"))
            self.parser.without_upgrade(self.url, self.headers)
            return
        if not self.url.startswith(b"/") and httptools.parse_url(self.url).path is None:
            self.url = b"/"  # `GET http://host` means that, and uvicorn fails without a path
        now = self.loop.time()
        head_s = now - (self._awaited_since or now)
        self._awaited_since = None
        self._began = False
        self._unparsed = 0
        self._shared.idle.pop(self, None)
        self.begin(head_s)

    def begin(self, head_s: float) -> None:
        """Make a task of the request whose head is here.

        Args:
            head_s: seconds it took to arrive.
        """
        super().on_headers_complete()
        # Its application starts in a later turn of the event loop.
        if self.parser.should_upgrade():  # we never do; what follows is not ours to read
            self.cycle.keep_alive = False
        self.cycle.transport = OneWrite(self.cycle, self.transport)  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Keep a first piece, which mostly is the whole body, as it came: uvicorn would copy it
        here, and again for who reads it. From the second on it stops reading as it would."""
        self._unparsed = 0
        cycle = self.cycle
        if not cycle.body and not cycle.response_complete:
            cycle.body = body  # type: ignore[assignment]  # uvicorn reads it by bytes(…) only
            cycle.message_event.set()
            return
        if isinstance(cast(object, cycle.body), bytes):
            cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.begins_anew:
            return
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self.is_between:
            self._shared.idle[self] = None

    @property
    def is_between(self) -> bool:
        """Whether every request that came is answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
            for name, value in self.headers
        )

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for a request that its parser gave up on."""
        self._refuse(self._refusal or InvalidRequest("this is no HTTP/1.1 request"))

    def _too_large(self) -> WireError:
        return InvalidRequest(
            f"the request's head is larger than {self._limits.max_header_bytes} bytes "
            "(limits.max_header_bytes)"
        )

    def _stop(self, refusal: WireError) -> NoReturn:
        self._refusal = refusal
        raise _Refused

    def _refuse(self, error: WireError) -> None:
        """Answer with the error where an answer can still be told apart, and close.

        A request in front of what is refused is whole, and gets its own answer first.
        """
        if self._deaf:
            return
        self._shared.count(error.code)
        self._shared.idle.pop(self, None)
        cycle: RequestResponseCycle | None = self.cycle
        if self.pipeline and cycle is not None and cycle.more_body:  # it is the last in the queue
            self.pipeline.popleft()
            cycle = self.pipeline[0][0] if self.pipeline else self._answering
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._deaf = True
            cycle.keep_alive = False
            return
        between = self.is_between
        its_own = cycle is not None and cycle.more_body and not cycle.response_started
        if between or (its_own and not self.pipeline):
            self.transport.write(_answer(error))
        self.transport.close()


def _answer(error: WireError) -> bytes:
    request_id = uuid.uuid4().hex
    body = error_body(error, request_id)
    headers = {
        "content-type": JSON,
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
        **error_headers(error),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.http_status] + lines.encode() + b"\r\n" + body
