"""The pure-ASGI edge: everything that happens to a request before and after its route.

request id → route → API key → place → body → deadline and disconnect → route → one answer,
one access log line
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    RequestTimeout,
    Unauthenticated,
    WireError,
    let_go,
)
from predictor.inference.observer import CANCELLED
from predictor.serving import bookkeeping
from predictor.serving.byte_budget import Hold
from predictor.serving.call import Call
from predictor.serving.http import (
    JSON,
    ClientDisconnected,
    HttpRequest,
    HttpResponse,
    Receive,
    Send,
    content_length,
    decompress,
    drain,
    read_body,
)
from predictor.serving.lifecycle import Lifecycle
from predictor.serving.policy import LATE, Policy, request_id
from predictor.serving.routes import Match, Routes
from predictor.settings import LimitSettings
from predictor.telemetry.recording import OK

log = logging.getLogger("predictor.edge")

DISCONNECTED: Final = 499
"""nginx's status for a caller that hung up; only ever logged."""
STOPPING: Final = "the server is stopping; retry on another replica"
LINGER_S: Final = 2.0
"""How long a refused caller may go on sending its body."""
KEPT_BODY_BYTES: Final = 256 * 1024
"""A body that small is on its way when its request is refused: to read it costs less than a new
connection. A caller of a larger one is told to stop."""


@dataclass(slots=True)
class _Exchange:
    """What is known of one request so far, for its answer and its log line."""

    method: str
    headers: dict[str, str]
    match: Match
    call: Call
    head_s: float = 0.0
    body_read: bool = False


class Edge:
    """The ASGI application."""

    def __init__(
        self, routes: Routes, policy: Policy, lifecycle: Lifecycle, limits: LimitSettings
    ) -> None:
        self._routes = routes
        self._policy = policy
        self._lifecycle = lifecycle
        self._limits = limits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        identity = request_id(headers.get("x-request-id"))
        match = self._routes.match(scope["method"], scope["path"])
        route = match.route
        call = Call(
            "http",
            None if route is None else route.path,
            identity,
            public=route is not None and route.public,
            counted_as=route.protocol if route is not None and route.inference else None,
        )
        exchange = _Exchange(
            method=scope["method"],
            headers=headers,
            match=match,
            call=call,
            head_s=scope.get("state", {}).get("head_s", 0.0),
        )
        bookkeeping.begin(self._policy, call, headers)
        error: WireError | None = None
        try:
            response = await self._answer(exchange, scope, receive)
        except WireError as caught:
            let_go(caught)
            error = caught
            response = self._error(exchange, caught)
        except ClientDisconnected:
            self._end(exchange, CANCELLED, None, DISCONNECTED)
            return
        except asyncio.CancelledError:  # by uvicorn, whose patience with a stop is over
            error = NotReady(STOPPING)
            response = self._error(exchange, error)
        except Exception as unexpected:
            log.exception("unhandled error")
            let_go(unexpected)
            error = InternalError()
            response = self._error(exchange, error)
        self._end(exchange, error.code if error else OK, error, response.status)
        await self._send(exchange, response, scope, receive, send)

    async def _answer(self, exchange: _Exchange, scope: Any, receive: Receive) -> HttpResponse:
        route = exchange.match.route
        if route is None or not route.public:
            self._policy.accept(scope["headers"], exchange.call)
        if route is None:
            if exchange.match.allowed:
                raise MethodNotAllowed(f"use {' or '.join(exchange.match.allowed)} here")
            raise NotFound("no such route")
        request = HttpRequest(
            method=exchange.method,
            path_params=exchange.match.params,
            headers=exchange.headers,
            request_id=exchange.call.request_id,
            arrived=exchange.call.timeline.began,
            deadline=self._policy.deadline(exchange.headers.get("x-request-timeout-ms")),
            key_id=exchange.call.key_id,
        )
        if not route.inference:
            return await route.handler(request)
        with (
            self._policy.admit(exchange.call.key_id, request.deadline),
            self._policy.bytes.hold() as hold,
        ):
            request.body = await self._body(exchange, receive, hold)
            return await _run(route.handler(request), receive, request.deadline)

    async def _body(self, exchange: _Exchange, receive: Receive, hold: Hold) -> bytes:
        limit = self._limits.max_request_bytes
        body = await read_body(
            receive,
            limit=limit,
            timeout_s=self._limits.receive_timeout_s,
            taken_s=exchange.head_s,
            length=content_length(exchange.headers),
            hold=hold,
        )
        exchange.body_read = True
        encoding = exchange.headers.get("content-encoding")
        return await decompress(body, encoding, limit=limit, hold=hold)

    def _error(self, exchange: _Exchange, error: WireError) -> HttpResponse:
        body = {"error": error.message, "code": error.code, "request_id": exchange.call.request_id}
        if exchange.match.legacy:
            body["detail"] = error.message  # what clients of the old service read
        headers = {}
        if error.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(error.retry_after_s))
        if isinstance(error, Unauthenticated):
            headers["www-authenticate"] = "Bearer"
        if isinstance(error, MethodNotAllowed):
            headers["allow"] = ", ".join(exchange.match.allowed)
        return HttpResponse(orjson.dumps(body), error.http_status, JSON, headers)

    async def _send(
        self, exchange: _Exchange, response: HttpResponse, scope: Any, receive: Receive, send: Send
    ) -> None:
        headers = {
            "content-type": response.content_type,
            "content-length": str(len(response.body)),
            "x-request-id": exchange.call.request_id,
            **exchange.call.headers,
            **response.headers,
        }
        unread = (
            not exchange.body_read and _has_body(exchange.headers) and not scope["state"]["whole"]()
        )
        stop_sending = unread and not _will_end_soon(exchange.headers, response.status)
        if stop_sending or self._lifecycle.is_draining:
            # While draining: callers move their next request to another replica, instead of
            # meeting a connection that closes under it.
            headers["connection"] = "close"
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": response.body, "more_body": unread})
        if unread:
            limit = 2 * self._limits.max_request_bytes
            if not await drain(receive, limit=limit, timeout_s=LINGER_S):
                scope["state"]["close"]()  # the next request would begin inside this body
            await send({"type": "http.response.body", "body": b""})

    def _end(
        self,
        exchange: _Exchange,
        code: str,
        error: WireError | None,
        status: int,
    ) -> None:
        method = exchange.method
        bookkeeping.end(self._policy, exchange.call, code, error, method=method, status=status)


def _has_body(headers: dict[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _will_end_soon(headers: dict[str, str], status: int) -> bool:
    """Whether the rest of a body is worth waiting for, so that its connection can go on."""
    length = content_length(headers)
    return (
        length is not None
        and length <= KEPT_BODY_BYTES
        and "expect" not in headers  # it waits for our word, and may now never send the body
        and status != RequestTimeout.http_status
    )


async def _run(handler: Awaitable[HttpResponse], receive: Receive, deadline: float) -> HttpResponse:
    """Run a handler until it answers, its caller hangs up, or its time is over.

    In this very task: a request is counted inside before the next one is asked whether it may
    enter. With tasks between them a burst passes as one, to be refused after it was parsed.
    """
    task = asyncio.current_task()
    hung_up = False

    def stop(watch: asyncio.Future[None]) -> None:
        nonlocal hung_up
        if task is not None and not watch.cancelled():
            hung_up = True
            task.cancel()

    watch = asyncio.ensure_future(_disconnect(receive))
    watch.add_done_callback(stop)
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())) as limit:
            return await handler
    except TimeoutError:
        if limit.expired():
            raise DeadlineExceeded(LATE) from None
        raise
    except asyncio.CancelledError:
        if task is not None and hung_up and task.uncancel() == 0:
            raise ClientDisconnected from None
        if task is None or task.cancelling():
            raise
        # By something below us, not by our caller: never leave it unanswered.
        raise NotReady(STOPPING) from None
    finally:
        watch.remove_done_callback(stop)
        watch.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
