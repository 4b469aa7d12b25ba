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
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError

from predictor.errors import InvalidRequest, RequestTimeout
from predictor.serving.byte_budget import ByteBudget
from predictor.settings import LimitSettings

Behavior: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

FRAMING_BYTES: Final = 64 * 1024
"""Room for the protobuf framing around `limits.max_request_bytes` of tensor data."""
SETTLE_S: Final = 0.1
PING_STRIKES: Final = 2
PING_INTERVAL_MS: Final = 5_000


class MessageReader:
    """Turns a handler of one message into one of a stream that has one."""

    def __init__(self, limits: LimitSettings, budget: ByteBudget) -> None:
        self._timeout_s = limits.receive_timeout_s
        self._budget = budget

    def reading(self, behavior: Behavior, deserialize: Callable[[bytes], Any]) -> Behavior:
        async def call(messages: AsyncIterator[bytes], context: Any) -> Any:
            with self._budget.hold() as hold:
                raw = await self._receive(messages)
                # The parsed message holds what it was parsed from a second time.
                hold.cover(2 * len(raw))
                try:
                    request = deserialize(raw)
                except DecodeError:
                    raise InvalidRequest("the message is not of the type of this method") from None
                del raw
                return await behavior(request, context)

        return call

    async def _receive(self, messages: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                async for message in messages:
                    return message
        except TimeoutError:
            raise RequestTimeout(
                f"the message did not arrive within {self._timeout_s:g} s "
                "(limits.receive_timeout_s)"
            ) from None
        # gRPC refuses a message that is too large by itself, and then cancels us: let it, because
        # to answer a call that has ended is an error it logs.
        await asyncio.sleep(SETTLE_S)
        raise InvalidRequest("the call ended without a message")


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
