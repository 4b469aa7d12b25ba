"""What the head of an HTTP request decides, the moment it is read.

request id → route → API key → deadline → would it have a place?

No task is made for that, and no body awaited: a server that is asked for ten times what it can do
spends its time on refusals, and each has to be cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context

from predictor.errors import MethodNotAllowed, NotFound, WireError, let_go
from predictor.serving import bookkeeping
from predictor.serving.call import Call
from predictor.serving.exchange import Exchange
from predictor.serving.http import HttpResponse
from predictor.serving.lifecycle import Lifecycle
from predictor.serving.policy import Policy, request_id
from predictor.serving.routes import Routes


class Intake:
    """Judges heads for one listener's routes; lives on the event loop."""

    def __init__(self, routes: Routes, policy: Policy, lifecycle: Lifecycle) -> None:
        self._routes = routes
        self._policy = policy
        self._lifecycle = lifecycle

    def open(
        self, method: str, path: str, fields: Sequence[tuple[bytes, bytes]], head_s: float
    ) -> Exchange:
        """Begin an exchange, and decide what its head decides. What is not refused here may be
        later: places are taken only when its own task runs. Each has to end once: in `refusal`,
        or in the task.

        Args:
            path: percent-decoded.
            fields: the head's; names in lower case.
            head_s: seconds it took to arrive.
        """
        headers: dict[str, str] = {}
        for name, value in fields:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        match = self._routes.match(method, path)
        route = match.route
        call = Call(
            "http",
            None if route is None else route.path,
            request_id(headers.get("x-request-id")),
            public=route is not None and route.public,
            counted_as=route.protocol if route is not None and route.inference else None,
        )
        exchange = Exchange(method, headers, match, call, Context(), head_s)
        exchange.context.run(self._decide, exchange, fields)
        return exchange

    def refusal(self, exchange: Exchange) -> HttpResponse | None:
        """The whole answer, written down, where the exchange can end at once; else None.

        While the server drains its answers close their connections, which takes a task.
        """
        error = exchange.refusal
        ends = not exchange.has_body or exchange.body_is_coming
        if error is None or not ends or exchange.method == "HEAD" or self._lifecycle.is_draining:
            return None
        response = exchange.error(error)
        exchange.context.run(self._write_down, exchange, error, response.status)
        return response

    def unexpected(self, error: Exception) -> WireError:
        return bookkeeping.unexpected(self._policy, error)

    def _write_down(self, exchange: Exchange, error: WireError, status: int) -> None:
        method = exchange.method
        bookkeeping.end(
            self._policy, exchange.call, error.code, error, method=method, status=status
        )

    def _decide(self, exchange: Exchange, fields: Sequence[tuple[bytes, bytes]]) -> None:
        try:
            bookkeeping.begin(self._policy, exchange.call, exchange.headers)
            self._examine(exchange, fields)
        except WireError as error:
            let_go(error)
            exchange.refusal = error
        except Exception as error:
            exchange.refusal = self.unexpected(error)

    def _examine(self, exchange: Exchange, fields: Sequence[tuple[bytes, bytes]]) -> None:
        route = exchange.match.route
        if route is None or not route.public:
            self._policy.accept(fields, exchange.call)
        if route is None:
            if exchange.match.allowed:
                raise MethodNotAllowed(f"use {' or '.join(exchange.match.allowed)} here")
            raise NotFound(
                "no such route; docs/protocols.md has them all, without a slash at the end"
            )
        call = exchange.call
        call.deadline = self._policy.deadline(exchange.headers.get("x-request-timeout-ms"))
        if route.inference:
            self._policy.check(call)
