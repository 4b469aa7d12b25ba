"""The pure-ASGI edge: what happens to a request that its head did not end (`Intake`).

place → deadline → body → disconnect → route → one answer, one access log line
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final, cast

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    NotReady,
    RequestTimeout,
    WireError,
    let_go,
)
from predictor.inference.observer import CANCELLED
from predictor.serving import bookkeeping
from predictor.serving.byte_budget import Hold
from predictor.serving.exchange import LINGER_S, Exchange
from predictor.serving.http import (
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
from predictor.serving.peer import Peer
from predictor.serving.policy import LATE, Policy
from predictor.settings import LimitSettings
from predictor.telemetry.recording import OK

DISCONNECTED: Final = 499
"""nginx's status for a caller that hung up; only ever logged."""
STOPPING: Final = "the server is stopping; retry on another replica"


class Edge:
    """The ASGI application, for what `Intake` opened."""

    def __init__(self, policy: Policy, lifecycle: Lifecycle, limits: LimitSettings) -> None:
        self._policy = policy
        self._lifecycle = lifecycle
        self._limits = limits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        error: WireError | None = None
        try:
            response = await self._answer(exchange, scope["state"], receive)
        except WireError as caught:
            let_go(caught)
            error = caught
            response = exchange.error(caught)
        except ClientDisconnected:
            self._end(exchange, CANCELLED, None, DISCONNECTED)
            return
        except asyncio.CancelledError:  # by uvicorn, whose patience with a stop is over
            error = NotReady(STOPPING)
            response = exchange.error(error)
        except Exception as unexpected:
            error = bookkeeping.unexpected(self._policy, unexpected)
            response = exchange.error(error)
        self._end(exchange, error.code if error else OK, error, response.status)
        await self._send(exchange, response, scope, receive, send)

    async def _answer(self, exchange: Exchange, state: Any, receive: Receive) -> HttpResponse:
        if exchange.refusal is not None:
            raise exchange.refusal
        route = exchange.match.route
        if route is None:
            raise InternalError
        request = HttpRequest(
            method=exchange.method,
            path_params=exchange.match.params,
            headers=exchange.headers,
            request_id=exchange.call.request_id,
            arrived=exchange.call.timeline.began,
            deadline=exchange.call.deadline,
            key_id=exchange.call.key_id,
        )
        if not route.inference:
            return await route.handler(request)
        with (
            self._policy.admit(exchange.call),
            self._policy.bytes.hold(request.key_id) as hold,
        ):
            try:
                async with asyncio.timeout(max(0.0, request.deadline - time.monotonic())) as limit:
                    request.body = await self._body(exchange, state["whole"](), receive, hold)
                    return await run(route.handler(request), state["peer"])
            except TimeoutError:
                if limit.expired():
                    raise DeadlineExceeded(LATE) from None
                raise

    async def _body(self, exchange: Exchange, whole: bool, receive: Receive, hold: Hold) -> bytes:
        limit = self._limits.max_request_bytes
        body = await read_body(
            receive,
            limit=limit,
            timeout_s=None if whole else self._limits.receive_timeout_s,
            taken_s=exchange.head_s,
            length=content_length(exchange.headers),
            hold=hold,
        )
        exchange.body_read = True
        encoding = exchange.headers.get("content-encoding")
        return await decompress(body, encoding, limit=limit, hold=hold)

    async def _send(
        self, exchange: Exchange, response: HttpResponse, scope: Any, receive: Receive, send: Send
    ) -> None:
        head = exchange.head_of(response)
        unread = not exchange.body_read and exchange.has_body and not scope["state"]["whole"]()
        if unread:
            scope["state"]["linger"]()
        too_slow = response.status == RequestTimeout.http_status
        stop_sending = unread and (too_slow or not exchange.body_is_coming)
        if stop_sending or self._lifecycle.is_draining:
            # While draining: callers move their next request to another replica, instead of
            # meeting a connection that closes under it.
            head.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        await send({"type": "http.response.body", "body": response.body, "more_body": unread})
        if unread:
            limit = 2 * self._limits.max_request_bytes
            if not await drain(receive, limit=limit, timeout_s=LINGER_S):
                scope["state"]["close"]()  # the next request would begin inside this body
            await send({"type": "http.response.body", "body": b""})

    def _end(self, exchange: Exchange, code: str, error: WireError | None, status: int) -> None:
        method = exchange.method
        bookkeeping.end(self._policy, exchange.call, code, error, method=method, status=status)


async def run(handler: Coroutine[Any, Any, HttpResponse], peer: Peer) -> HttpResponse:
    """Run a handler until it answers, or its peer hangs up.

    In this very task: a request is counted inside before the next one is asked (`Policy.admit`)
    whether it may enter. With tasks between them a burst passes as one, to be refused when parsed.

    Raises:
        ClientDisconnected: the peer has hung up.
        NotReady: something below cancelled it.
    """
    task = cast("asyncio.Task[None]", asyncio.current_task())
    if peer.has_hung_up:
        handler.close()
        raise ClientDisconnected
    hung_up = False

    def stop() -> None:
        nonlocal hung_up
        hung_up = True
        task.cancel()

    try:
        with peer.watched(stop):
            return await handler
    except asyncio.CancelledError:
        if hung_up and task.uncancel() == 0:
            raise ClientDisconnected from None
        if task.cancelling():
            raise
        # By something below us, not by our peer: never leave it unanswered.
        raise NotReady(STOPPING) from None
