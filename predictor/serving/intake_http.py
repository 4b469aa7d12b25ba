"""One HTTP connection whose requests are judged by their heads.

A request that its head refuses is answered here, without a task of its own. Its body, where it is
small, is read on and forgotten, and the connection is the next request's.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from predictor.serving.bounded_http import MAX_PIPELINED, BoundedHttp
from predictor.serving.connections import Connections
from predictor.serving.exchange import LINGER_S, Exchange
from predictor.serving.http import HttpResponse
from predictor.serving.intake import Intake
from predictor.serving.peer import Peer


def _whole(cycle: RequestResponseCycle) -> Callable[[], bool]:
    """For the edge: whether the body is here already, all of it, read or unread."""
    return lambda: not cycle.more_body


class IntakeHttp(BoundedHttp):
    """Leaves the edge, in the scope's state: the `exchange`; the `peer`; whether its body is
    `whole`; how to let the connection `linger` for the rest of it; and how to `close` it behind
    its answer."""

    def __init__(self, shared: Connections, intake: Intake, **options: Any) -> None:
        super().__init__(shared, **options)
        self._intake = intake
        self._peer = Peer(self._listen)
        self._answered_at: float | None = None  # when a request was whose body is still arriving
        self._in_a_row = 0  # requests of one packet that were refused without a task
        self._is_last = False  # the server stops: nothing is wanted behind that body

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._peer.hang_up()

    def check(self, now: float) -> None:
        if self._answered_at is not None and now - self._answered_at > LINGER_S:
            self.drop("refused_body")
        else:
            super().check(now)

    def shutdown(self) -> None:
        if self._answered_at is None:
            super().shutdown()
        else:  # its caller is still sending, and would be cut
            self._is_last = True

    def data_received(self, data: bytes) -> None:
        self._in_a_row = 0
        super().data_received(data)

    def begin(self, head_s: float) -> None:
        self._unset_keepalive_if_required()  # of a request refused in this very packet
        try:
            refused = self.is_between and self._refuse_at_once(head_s)
        except httptools.HttpParserError:  # of the URL
            raise
        except Exception as error:  # the parser would take it for the caller's fault
            self._stop(self._intake.unexpected(error))
        if refused:
            self._answered_at = self.loop.time()
            self._linger()
            return
        state = self.scope["state"]
        state["head_s"] = head_s
        state["peer"] = self._peer
        state["linger"], state["close"] = self._linger, self._close_after_answer
        super().begin(head_s)
        state["whole"] = _whole(self.cycle)

    def on_body(self, body: bytes) -> None:
        if self._answered_at is None:
            super().on_body(body)
        else:
            self._unparsed = 0

    def on_message_complete(self) -> None:
        if self._answered_at is None:
            super().on_message_complete()
            return
        self._unparsed = 0
        self._answered_at = None
        if self._is_last:
            self.transport.close()
        self.on_response_complete()

    @property
    def is_between(self) -> bool:
        return self._answered_at is None and super().is_between

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        scope = cycle.scope
        state = scope["state"]
        if "exchange" not in state:  # it waited for its turn, and is judged by what holds now
            state["exchange"] = self._intake.open(
                scope["method"], scope["path"], list(scope["headers"]), state["head_s"]
            )
        task = self.loop.create_task(cycle.run_asgi(app), context=state["exchange"].context)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _refuse_at_once(self, head_s: float) -> bool:
        """Judge the head that is here; where it is refused, and the connection can go on after
        that, answer it.

        A packet may hold thousands of heads. With more than some it is the pipeline's to bound.
        """
        method = self.parser.get_method().decode("ascii")
        exchange = self._intake.open(method, self._path(), self.headers, head_s)
        self.scope["state"]["exchange"] = exchange
        if exchange.refusal is None or self._in_a_row == MAX_PIPELINED or self.flow.write_paused:
            return False
        is_plain = self.parser.get_http_version() == "1.1" and not self.parser.should_upgrade()
        if not (is_plain and self.parser.should_keep_alive()):
            return False
        response = self._intake.refusal(exchange)
        if response is None:
            return False
        self._in_a_row += 1
        self.transport.write(self._as_bytes(exchange, response))
        return True

    def _path(self) -> str:
        path: str = httptools.parse_url(self.url).path.decode("ascii")
        return urllib.parse.unquote(path) if "%" in path else path

    def _as_bytes(self, exchange: Exchange, response: HttpResponse) -> bytes:
        lines = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *exchange.head_of(response)):
            lines += (name, b": ", value, b"\r\n")
        return b"".join((*lines, b"\r\n", response.body))

    def _linger(self) -> None:
        """Nothing is owed any more to who sends the rest of a body: to whoever comes, he makes
        room like one who sends nothing."""
        if not self.transport.is_closing():
            self._shared.idle[self] = None

    def _listen(self) -> None:
        self.flow.resume_reading()

    def _close_after_answer(self) -> None:
        """For the edge, whose answer is out while the request's body is not all here: the request
        that is being parsed is the newest one."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
