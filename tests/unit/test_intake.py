"""What a head decides: the faults that no request can bring about."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import pytest

from predictor.errors import InternalError
from predictor.serving.connections import Connections
from predictor.serving.edge import Edge
from predictor.serving.intake import Intake
from predictor.serving.intake_http import IntakeHttp
from predictor.serving.lifecycle import Lifecycle
from predictor.serving.listening import HttpServer, listen
from predictor.serving.policy import Policy
from predictor.serving.refusal_log import LINES_PER_S
from predictor.serving.routes import Match, Routes
from predictor.settings import LimitSettings, ServerSettings

FLOOD = 100


class Broken(Policy):
    def accept(self, *args: object) -> None:
        raise ValueError("secret")


async def test_a_fault_of_ours_is_an_internal_error_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    intake = Intake(Routes([]), Broken(None, LimitSettings()), Lifecycle())
    exchange = intake.open("GET", "/v2", [(b"host", b"x")], 0.0)
    assert isinstance(exchange.refusal, InternalError)
    assert "unhandled error" in caplog.text
    answer = intake.refusal(exchange)
    assert answer is not None
    assert answer.status == 500
    assert json.loads(answer.body)["request_id"] == exchange.call.request_id
    assert b"secret" not in answer.body


class NoRoutes(Routes):
    def match(self, *_: str) -> Match:
        raise ValueError


@pytest.mark.parametrize(
    ("routes", "policy"),
    [(NoRoutes([]), Policy), (Routes([]), Broken)],
    ids=["before it is judged", "while it is judged"],
)
async def test_a_fault_that_comes_by_the_thousand_is_no_flood_of_tracebacks(
    routes: Routes, policy: type[Policy], caplog: pytest.LogCaptureFixture
) -> None:
    limits = LimitSettings()
    listener = listen("127.0.0.1", 0, "http_port")
    known = policy(None, limits)
    protocol = partial(IntakeHttp, Connections(limits), Intake(routes, known, Lifecycle()))
    server = HttpServer(Edge(known, Lifecycle(), limits), protocol, ServerSettings())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    began = time.monotonic()
    for _ in range(FLOOD):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 500 ")
        writer.close()
    tracebacks = sum(line.message == "unhandled error" for line in caplog.records)
    assert 1 <= tracebacks <= LINES_PER_S * (time.monotonic() - began + 1)
    server.should_exit = True
    await serving
