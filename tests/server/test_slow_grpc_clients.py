"""The same as test_slow_clients.py, over gRPC."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.process import ServerProcess, eventually
from tests.server.raw import (
    MAX_CONNECTIONS,
    PATIENCE_S,
    PREFACE,
    REQUEST_BYTES,
    connect,
    descriptors,
    frame,
    rss,
    until_closed,
    while_held,
)

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PUBLIC = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ModelReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
]


pytestmark = pytest.mark.usefixtures("others_are_served")


def key(server: ServerProcess) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", server.api_key),)


def answered(call: Any) -> Any:
    call.exception()  # waits
    return call


def call_with(
    messages: Iterable[bytes], server: ServerProcess, metadata: tuple[tuple[str, str], ...]
) -> Any:
    """A finished call that streams `messages` where one is expected."""
    with grpc.insecure_channel(server.grpc) as channel:
        method: Any = channel.stream_unary(METHOD, None, None)
        return answered(method.future(iter(messages), timeout=PATIENCE_S, metadata=metadata))


class Endless:
    """A stream that never has a message, and never ends before its call does."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        threading.Event().wait(PATIENCE_S)
        raise StopIteration


def test_a_grpc_caller_without_a_key_is_refused_before_it_sends(small: ServerProcess) -> None:
    call = call_with(Endless(), small, ())
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_grpc_caller_without_a_place_is_refused_before_it_sends(small: ServerProcess) -> None:
    held = [64] * 12  # of 16 places one key may hold no more
    call = while_held(small, held, lambda: call_with(Endless(), small, key(small)))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details().startswith("OVERLOADED: ")


def test_a_grpc_message_that_does_not_come_is_refused(small: ServerProcess) -> None:
    call = call_with(Endless(), small, key(small))
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.details().startswith("REQUEST_TIMEOUT: ")


def test_a_deadline_does_not_wait_for_a_grpc_message(small: ServerProcess) -> None:
    metadata = (*key(small), ("x-request-timeout-ms", "100"))
    call = call_with(Endless(), small, metadata)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.details().startswith("DEADLINE_EXCEEDED: ")


@pytest.mark.parametrize("method", PUBLIC)
def test_messages_of_strangers_are_received_a_few_at_a_time(
    method: str, small: ServerProcess
) -> None:
    """Each may be as large as a picture, and nobody knows how large before it is here."""
    with grpc.insecure_channel(small.grpc) as channel:
        open_call: Any = channel.stream_stream(method, None, None)
        calls = [open_call(iter(Endless()), timeout=PATIENCE_S) for _ in range(12)]
        early = [answered(call) for call in calls[:8]]
        assert not any(call.done() for call in calls[8:]), "they were all too slow"
        honest = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert honest.status == health_pb2.HealthCheckResponse.SERVING
        late = [answered(call) for call in calls[8:]]
    assert {call.code() for call in early} == {grpc.StatusCode.UNAVAILABLE}
    assert {call.code() for call in late[1:]} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert {call.details().partition(":")[0] for call in early} == {"OVERLOADED"}


@pytest.mark.parametrize("method", PUBLIC)
def test_a_large_message_of_a_stranger_is_refused(method: str, small: ServerProcess) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        call: Any = channel.stream_stream(method, None, None)(iter([b"\x0a\x01a" * 2000]))
        answered(call)
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call.details().startswith("PAYLOAD_TOO_LARGE: ")


def test_a_grpc_message_of_many_fields_is_refused_unparsed(small: ServerProcess) -> None:
    call = call_with([b"\x2a\x00" * (REQUEST_BYTES // 2)], small, key(small))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call.details().startswith("PAYLOAD_TOO_LARGE: ")


@pytest.mark.parametrize("messages", [[b"\xff\xff\xff\xff"], []], ids=["nonsense", "nothing"])
def test_grpc_without_a_message_of_its_type_is_refused(
    messages: list[bytes], small: ServerProcess
) -> None:
    call = call_with(messages, small, key(small))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert call.details().startswith("INVALID_REQUEST: ")


def test_a_grpc_message_beyond_the_budget_is_refused(small: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="realfake")
    message.raw_input_contents.append(bytes(REQUEST_BYTES * 3 // 4))
    with grpc.insecure_channel(small.grpc) as channel:
        method = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        call = while_held(
            small,
            [REQUEST_BYTES],
            lambda: answered(method.future(message, metadata=key(small), timeout=PATIENCE_S)),
        )
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details().startswith("OVERLOADED: ")


def test_large_grpc_metadata_is_refused(small: ServerProcess) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        method: Any = pb_grpc.GRPCInferenceServiceStub(channel).ServerLive
        large = (("x-large", "a" * 16_384),)
        call = answered(method.future(pb.ServerLiveRequest(), metadata=large, timeout=PATIENCE_S))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_grpc_bomb_is_refused_and_costs_no_memory(small: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="realfake")
    message.raw_input_contents.append(bytes(128 * REQUEST_BYTES))
    before = rss(small)
    with grpc.insecure_channel(small.grpc) as channel:
        method: Any = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        gzip = grpc.Compression.Gzip
        call = answered(method.future(message, metadata=key(small), timeout=60, compression=gzip))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ExecuteBatchError" not in small.log_text()
    assert rss(small) - before < 16 * REQUEST_BYTES


def test_watches_without_end_are_bounded(small: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        # Several connections, or gRPC's own bound on the streams of one holds them back.
        own = [("grpc.use_local_subchannel_pool", 1)]
        stubs = [
            health_pb2_grpc.HealthStub(stack.enter_context(grpc.insecure_channel(small.grpc, own)))
            for _ in range(3)
        ]
        # What other tests have closed a moment ago may still be counted.
        held = eventually(lambda: begun(stubs[0], 8), PATIENCE_S, "room for eight")
        assert refusals(watches(stubs[0], 1)) == [grpc.StatusCode.UNAVAILABLE]
        # Most connections are left to those who have a key.
        held += watches(stubs[1], MAX_CONNECTIONS // 4 - 8)
        assert refusals(held[8:]) == []
        assert refusals(watches(stubs[2], 2)) == [grpc.StatusCode.UNAVAILABLE] * 2
        held[0].cancel()
        eventually(lambda: not refusals(watches(stubs[2], 1)) or None, PATIENCE_S, "the place left")


def watches(health: health_pb2_grpc.HealthStub, count: int) -> list[Any]:
    request = health_pb2.HealthCheckRequest()
    return [health.Watch(request, timeout=PATIENCE_S) for _ in range(count)]


def begun(health: health_pb2_grpc.HealthStub, count: int) -> list[Any] | None:
    streams = watches(health, count)
    if not refusals(streams):
        return streams
    for stream in streams:
        stream.cancel()
    return None


def refusals(streams: list[Any]) -> list[grpc.StatusCode]:
    """The status of those that do not begin."""
    found = []
    for stream in streams:
        try:
            next(stream)
        except grpc.RpcError:
            found.append(stream.code())
    return found


@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n"], ids=["silence", "half a preface"])
def test_a_grpc_connection_that_says_nothing_is_closed(sent: bytes, small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(sent)
        until_closed(raw)


@pytest.mark.parametrize(
    "sent",
    [PREFACE, PREFACE + frame(1, b"\x82", stream=1)],
    ids=["idle", "headers without end"],
)
def test_a_grpc_connection_without_calls_is_closed(sent: bytes, small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(sent)
        until_closed(raw)


def test_grpc_pings_without_end_are_cut(small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(PREFACE)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                raw.sendall(frame(6, bytes(8)))
        assert b"too_many_pings" in until_closed(raw)


def test_more_grpc_connections_than_allowed_are_closed(small: ServerProcess) -> None:
    before = descriptors(small)
    with grpc.insecure_channel(small.grpc) as channel, contextlib.ExitStack() as stack:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live
        flood = [stack.enter_context(connect(small, "grpc")) for _ in range(5 * MAX_CONNECTIONS)]
        for raw in flood:
            with contextlib.suppress(OSError):
                raw.sendall(PREFACE)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live
        eventually(
            lambda: descriptors(small) <= before + MAX_CONNECTIONS + 4 or None,
            PATIENCE_S,
            "the surplus to be closed",
        )
