"""An HTTP client that sends one request again and again, and costs little beside the server."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from hack.load.samples import BROKEN, UNANSWERED, Answer

RESPONSE_LIMIT_S: Final = 30.0


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time; methods named on_… are the parser's."""

    def __init__(self, milliseconds: bool) -> None:
        self._milliseconds = milliseconds
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport
        self._retry_after_s: float | None = None
        self._body: list[bytes] = []
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> Answer:
        """Raises: OSError: there was no whole answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()
            self.connection_lost(None)

    def on_message_begin(self) -> None:
        self._retry_after_s = None
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"retry-after-ms" and self._milliseconds:
            self._retry_after_s = float(value) / 1000
        elif name == b"retry-after" and self._retry_after_s is None and value.isdigit():
            self._retry_after_s = float(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.usable = self.usable and self._parser.should_keep_alive()
        code = str(self._parser.get_status_code())
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(code, self._retry_after_s, b"".join(self._body)))

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def close(self) -> None:
        self._transport.close()


class HttpCaller:
    """Connections to one server, opened as they are needed.

    Args:
        url: scheme, host and port count.
        request: the bytes of one HTTP/1.1 request.
        ca_file: PEM, instead of the certificates that this machine trusts.
        most_connections: a request that finds all in use waits, and its wait counts.
        milliseconds: read Retry-After-Ms, where there is one, instead of Retry-After.
    """

    def __init__(
        self,
        url: str,
        request: bytes,
        *,
        ca_file: str | None = None,
        most_connections: int = 1000,
        milliseconds: bool = False,
    ) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._request = request
        self._connection = partial(_Connection, milliseconds)
        self._idle: deque[_Connection] = deque()
        self._places = asyncio.Semaphore(most_connections)

    async def ask(self) -> Answer:
        """See `Caller.ask`."""
        async with self._places:
            connection = None
            try:
                async with asyncio.timeout(RESPONSE_LIMIT_S):
                    connection = await self._connect()
                    answer = await connection.ask(self._request)
            except TimeoutError:
                answer = Answer(UNANSWERED)
            except OSError:
                answer = Answer(BROKEN)
            if connection is not None:
                if connection.usable and answer.code != UNANSWERED:
                    self._idle.append(connection)
                else:
                    connection.close()
        return answer

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            self._connection, self._host, self._port, ssl=self._tls
        )
        return made

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        # Closing takes a turn of the event loop, or ends as a warning.
        await asyncio.sleep(0)


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The bytes of one POST."""
    named = {"Host": "load", "Content-Length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
