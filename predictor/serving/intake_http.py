"""One HTTP connection whose requests are judged by their heads.

A request that its head refuses is answered here, without a task of its own. Its body, where it is
small, is read on and forgotten, and the connection is the next request's.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from predictor.serving.bounded_http import BoundedHttp
from predictor.serving.connections import Connections
from predictor.serving.exchange import Exchange
from predictor.serving.http import HttpResponse
from predictor.serving.intake import Intake

LINGER_S: Final = 2.0
"""How long the body of a request that is answered already may go on arriving."""


def _whole(cycle: RequestResponseCycle) -> Callable[[], bool]:
    """For the edge: whether the body is here already, all of it, read or unread."""
    return lambda: not cycle.more_body


class IntakeHttp(BoundedHttp):
    """Leaves the edge, in the scope's state: the `exchange`; whether its body is `whole`; and how
    to `close` the connection behind its answer."""

    def __init__(self, shared: Connections, intake: Intake, **options: Any) -> None:
        super().__init__(shared, **options)
        self._intake = intake
        self._answered_at: float | None = None  # the request whose body is still arriving

    def check(self, now: float) -> None:
        if self._answered_at is not None and now - self._answered_at > LINGER_S:
            self.drop("refused_body")
        else:
            super().check(now)

    def begin(self, head_s: float) -> None:
        method = self.parser.get_method().decode("ascii")
        exchange = self._intake.open(method, self._path(), self.headers, head_s)
        if exchange.refusal is not None and self._refuse_at_once(exchange):
            self._answered_at = self.loop.time()
            return
        state = self.scope["state"]
        state["exchange"], state["close"] = exchange, self._close_after_answer
        super().begin(head_s)
        state["whole"] = _whole(self.cycle)

    def on_body(self, body: bytes) -> None:
        if self._answered_at is None:
            super().on_body(body)
        else:
            self.unparsed = 0

    def on_message_complete(self) -> None:
        if self._answered_at is None:
            super().on_message_complete()
        else:
            self.unparsed = 0
            self._answered_at = None
            self.on_response_complete()

    @property
    def is_between(self) -> bool:
        return self._answered_at is None and super().is_between

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        context = cycle.scope["state"]["exchange"].context
        task = self.loop.create_task(cycle.run_asgi(app), context=context)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _path(self) -> str:
        path: str = httptools.parse_url(self.url).path.decode("ascii")
        return urllib.parse.unquote(path) if "%" in path else path

    def _refuse_at_once(self, exchange: Exchange) -> bool:
        """Send the refusal, where its turn is now and the connection can go on after it."""
        goes_on = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        if not (goes_on and self.is_between) or self.flow.write_paused:
            return False
        response = self._intake.refusal(exchange)
        if response is None:
            return False
        self.transport.write(self._as_bytes(exchange, response))
        return True

    def _as_bytes(self, exchange: Exchange, response: HttpResponse) -> bytes:
        lines = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *exchange.head_of(response)):
            lines += (name, b": ", value, b"\r\n")
        return b"".join((*lines, b"\r\n", response.body))

    def _close_after_answer(self) -> None:
        """For the edge, whose answer is out while the request's body is not all here: the request
        that is being parsed is the newest one."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
