"""An HTTP client that sends one request again and again, and costs little beside the server.

Latency counts from the moment a request was due, not from when a connection got free to send it:
a server that stalls is charged for everybody who had to wait (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

RESPONSE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds from when it was due to its last byte; status 0 for a broken one."""

    status: int
    seconds: float
    retry_after_s: float | None = None


@dataclass(slots=True)
class Samples:
    taken_s: float
    samples: list[Sample] = field(default_factory=list)

    def seconds(self, *statuses: int) -> list[float]:
        return sorted(s.seconds for s in self.samples if s.status in statuses)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send `request`; return the status and the head of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        del self._received[: end + 4 + length]
        if b"\r\nconnection: close" in head:
            self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), head))

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def close(self) -> None:
        self._transport.close()


class LoadClient:
    """Connections to one server, opened as they are needed.

    Args:
        request: the bytes of one HTTP/1.1 request.
        most_connections: a request that finds all in use waits, and its wait counts.
    """

    def __init__(self, host: str, port: int, request: bytes, most_connections: int = 1000) -> None:
        self._address = (host, port)
        self._request = request
        self._idle: deque[_Connection] = deque()
        self._places = asyncio.Semaphore(most_connections)

    async def closed_loop(self, callers: int, seconds: float) -> Samples:
        """`callers` who each send the next request when the last is answered."""
        samples = Samples(seconds)
        end = time.monotonic() + seconds

        async def call() -> None:
            while (now := time.monotonic()) < end:
                samples.samples.append(await self._ask(now))

        await asyncio.gather(*(call() for _ in range(callers)))
        return samples

    async def open_loop(self, per_second: float, seconds: float) -> Samples:
        """Requests at a steady rate, whatever becomes of them."""
        samples = Samples(seconds)
        began = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()

        async def call(due: float) -> None:
            samples.samples.append(await self._ask(due))

        for number in range(int(per_second * seconds)):
            due = began + number / per_second
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(call(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return samples

    async def _ask(self, due: float) -> Sample:
        async with self._places:
            try:
                connection = await self._connect()
                async with asyncio.timeout(RESPONSE_LIMIT_S):
                    status, head = await connection.ask(self._request)
            except (OSError, TimeoutError):
                return Sample(0, time.monotonic() - due)
            if connection.usable:
                self._idle.append(connection)
            else:
                connection.close()
        retry = head.partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0]
        return Sample(status, time.monotonic() - due, float(retry) if retry else None)

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, *self._address)
        return made

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of one POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: load", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
