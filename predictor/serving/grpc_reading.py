"""How a gRPC call's message is received: after the policy, in bounded time and memory.

grpc.aio receives the message of a unary call, however long that takes, and parses it before it
calls anybody; a stranger could make the server hold `limits.max_request_bytes` a stream. Served as
a stream of one message, which is the same on the wire, a call is judged by its headers first.

What cannot be bounded from here: gRPC does not say how large a message is before all of it is
here, so `limits.max_bytes_in_flight` counts it then; and what it buffers of a stream nobody reads
yet (its flow-control window, 64 KiB at first).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError

from predictor.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
)
from predictor.protocol.message_size import check_message_size, shape_of
from predictor.serving.byte_budget import ByteBudget, Hold
from predictor.serving.call import Call, call_var
from predictor.serving.policy import LATE
from predictor.settings import LimitSettings

Behavior: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Deserialize: TypeAlias = Callable[[bytes], Any]
Read: TypeAlias = Callable[[AsyncIterator[bytes], Call, Hold], Awaitable[Any]]

STRANGERS: Final = 4
"""Messages of callers without a key that are received at once. An honest one is here as soon as its
head is; so of too many the one that has waited longest is refused."""
STRANGERS_BYTES: Final = 4096
"""The name of a model or a service."""
_EVICTED: Final = 0.0
"""A time that has passed."""
FRAMING_BYTES: Final = 64 * 1024
"""Room for the protobuf framing around `limits.max_request_bytes` of tensor data."""
SETTLE_S: Final = 0.1
PING_STRIKES: Final = 2
PING_INTERVAL_MS: Final = 5_000


class MessageReader:
    """Receives the one message of a call, and parses it."""

    def __init__(self, limits: LimitSettings, budget: ByteBudget) -> None:
        self._timeout_s = limits.receive_timeout_s
        self._max_values = limits.max_json_values
        self._budget = budget
        self._strangers: deque[asyncio.Timeout] = deque()

    def reading(self, behavior: Behavior, deserialize: Deserialize) -> Behavior:
        """Turn a handler of one message into one of a stream that has one."""
        read = self.reader(deserialize)

        async def call(messages: AsyncIterator[bytes], context: Any) -> Any:
            known = call_var.get()
            with self._budget.hold(known.key_id) as hold:
                return await behavior(await read(messages, known, hold), context)

        return call

    def reader(self, deserialize: Deserialize) -> Read:
        """What receives and parses messages of one type, and raises WireErrors."""
        shape = shape_of(deserialize(b"").DESCRIPTOR)

        async def read(messages: AsyncIterator[bytes], call: Call, hold: Hold) -> Any:
            raw = await self._receive(messages, call)
            if call.public and len(raw) > STRANGERS_BYTES:
                raise PayloadTooLarge(
                    f"the message has {len(raw)} bytes, and {STRANGERS_BYTES} hold every name"
                )
            if not call.public:  # whoever has no key does not find the memory of keys used up
                hold.cover(2 * len(raw))  # as it came, and parsed
            call.message_bytes = len(raw)
            check_message_size(raw, shape, self._max_values)
            try:
                return deserialize(raw)
            except DecodeError:
                raise InvalidRequest("the message is not of the type of this method") from None

        return read

    async def _receive(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        left_s = max(0.0, call.deadline - time.monotonic())
        try:
            async with asyncio.timeout(min(self._timeout_s, left_s)) as timer:
                with self._one_of_few(timer) if call.public else nullcontext():
                    async for message in messages:
                        return message
        except TimeoutError:
            if timer.when() == _EVICTED:
                raise Overloaded("too many callers without a key are sending; retry") from None
            if left_s < self._timeout_s:
                raise DeadlineExceeded(LATE) from None
            raise RequestTimeout(
                f"the message did not arrive within {self._timeout_s:g} s "
                "(limits.receive_timeout_s)"
            ) from None
        # gRPC refuses a message that is too large by itself, and then cancels us: let it, because
        # to answer a call that has ended is an error it logs.
        await asyncio.sleep(SETTLE_S)
        raise InvalidRequest("the call ended without a message")

    @contextmanager
    def _one_of_few(self, timer: asyncio.Timeout) -> Iterator[None]:
        if len(self._strangers) == STRANGERS:
            longest = self._strangers.popleft()
            if not longest.expired():
                longest.reschedule(_EVICTED)
        self._strangers.append(timer)
        try:
            yield
        finally:
            with suppress(ValueError):
                self._strangers.remove(timer)


def connection_options(limits: LimitSettings, keep_alive_s: float) -> list[tuple[str, int]]:
    """gRPC's own bounds, as channel arguments of the server."""
    largest = limits.max_request_bytes + FRAMING_BYTES
    patience_ms = round(limits.receive_timeout_s * 1000)
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", largest),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # Of one connection. Twice what is served, so that the rest is refused and not kept waiting.
        ("grpc.max_concurrent_streams", 2 * limits.max_in_flight),
        ("grpc.server_handshake_timeout_ms", patience_ms),
        ("grpc.max_connection_idle_ms", round(keep_alive_s * 1000)),
        # A peer that vanished, or takes no answer: asked after this long, cut after as long again.
        ("grpc.keepalive_time_ms", max(patience_ms, 10_000)),
        ("grpc.keepalive_timeout_ms", patience_ms),
        # Pings cost us more than their sender: more often than this, and it is told to go.
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a port that is taken must be an error, not shared
    ]
