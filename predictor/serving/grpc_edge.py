"""The gRPC edge: the same policy as HTTP's, as one server interceptor."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from predictor.errors import DeadlineExceeded, NotReady, WireError, let_go
from predictor.inference.observer import CANCELLED
from predictor.serving import bookkeeping
from predictor.serving.call import Call
from predictor.serving.grpc_reading import MessageReader
from predictor.serving.policy import LATE, Policy, request_id
from predictor.telemetry.recording import OK

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"

PUBLIC: Final = frozenset(
    {
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
ERROR_DOMAIN: Final = "realfake"

DEADLINE_SLACK_S: Final = 0.05
"""A call cancelled this near to its deadline was late, not given up: the caller's clock, which
started a transit earlier, is usually the first of the two to end it."""


class GrpcEdge(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic when run
    """Request id, API key, one status, one access log line."""

    def __init__(self, policy: Policy, reader: MessageReader) -> None:
        self._policy = policy
        self._reader = reader
        self._handlers: dict[str, Any] = {}  # of the methods that exist, as they are served

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None and (handler := await continuation(handler_call_details)) is not None:
            handler = self._handlers[method] = self._guarded(method, handler)
        return handler

    def _guarded(self, method: str, handler: Any) -> Any:
        if handler.unary_unary is None:
            # A stream does not pass the policy, so only a public one exists.
            return self._stream(method, handler) if method in PUBLIC else None
        behavior = self._reader.reading(handler.unary_unary, handler.request_deserializer)
        return grpc.stream_unary_rpc_method_handler(
            self._wrap(method, behavior), response_serializer=handler.response_serializer
        )

    def _stream(self, method: str, handler: Any) -> Any:
        read = self._reader.reader(handler.request_deserializer)

        async def call(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            known = Call("grpc", method, request_id(None), public=True, deadline=math.inf)
            try:
                with self._policy.bytes.hold() as hold:
                    request = await read(messages, known, hold)
                async for answer in handler.unary_stream(request, context):
                    yield answer
            except WireError as error:
                await _abort(context, error, known)

        return grpc.stream_stream_rpc_method_handler(
            call, response_serializer=handler.response_serializer
        )

    def _wrap(self, method: str, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> Any:
            metadata = {
                name: value
                for name, value in context.invocation_metadata() or ()
                if isinstance(value, str)
            }
            identity = request_id(metadata.get("x-request-id"))
            known = Call(
                "grpc",
                method,
                identity,
                public=method in PUBLIC,
                counted_as="grpc" if method == INFER else None,
            )
            bookkeeping.begin(self._policy, known, metadata)
            context.set_trailing_metadata((("x-request-id", identity),))
            code, failure = CANCELLED, None
            try:
                self._examine(known, metadata, context)
                with self._place(known):
                    answer = await behavior(request, context)
                if known.headers:
                    # Not in the trailer: the draft that defines these fields forbids it.
                    await context.send_initial_metadata(tuple(known.headers.items()))
                code = OK
                return answer
            except WireError as error:
                let_go(error)
                code, failure = error.code, error
                await _abort(context, error, known)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # by gRPC
                    left_s = _left_s(context)
                    if left_s is not None and left_s <= DEADLINE_SLACK_S:
                        failure = DeadlineExceeded(LATE)
                        code = failure.code
                    raise
                # Something below us was cancelled; unanswered, the caller would wait forever.
                stopping = NotReady("the server is stopping; retry on another replica")
                code, failure = stopping.code, stopping
                await _abort(context, stopping, known)
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as unexpected:
                failure = bookkeeping.unexpected(self._policy, unexpected)
                code = failure.code
                await _abort(context, failure, known)
            finally:
                bookkeeping.end(self._policy, known, code, failure)

        return call

    def _examine(self, call: Call, metadata: Mapping[str, str], context: Context) -> None:
        """What a call's headers decide, before its message is received."""
        if not call.public:
            self._policy.accept(_raw_metadata(context), call)
        timeout_ms = metadata.get("x-request-timeout-ms")
        call.deadline = self._policy.deadline(timeout_ms, _left_s(context))

    def _place(self, call: Call) -> AbstractContextManager[None]:
        """Where there is none, or the answer would be late, no message is waited for."""
        if call.counted_as is None:
            return nullcontext()
        self._policy.check(call)
        return self._policy.admit(call)


def _left_s(context: Context) -> float | None:
    """Until the caller's deadline; None where there is none, which gRPC's annotation leaves out."""
    return context.time_remaining()


def _raw_metadata(context: Context) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]


async def _abort(context: Context, error: WireError, call: Call) -> NoReturn:
    """End the call with the error's status, `ErrorInfo`, and `RetryInfo` where a retry helps."""
    identity = call.request_id
    code = grpc.StatusCode[error.grpc_status]
    message = f"{error.code}: {error.message}"
    status = Status(code=code.value[0], message=message)
    info = ErrorInfo(reason=error.code, domain=ERROR_DOMAIN, metadata={"request_id": identity})
    status.details.add().Pack(info)
    trailing = [("x-request-id", identity), *call.headers.items()]
    if error.retry_after_s is not None:
        milliseconds = math.ceil(error.retry_after_s * 1000)
        delay = Duration()
        delay.FromMilliseconds(milliseconds)
        status.details.add().Pack(RetryInfo(retry_delay=delay))
        # What gRPC's own retries obey (gRFC A6); they do not look into the details.
        trailing.append(("grpc-retry-pushback-ms", str(milliseconds)))
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, message, (*trailing, details))
    raise AssertionError("abort always raises")
