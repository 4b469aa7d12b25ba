"""What serving/ overrides, reads and sets in uvicorn 0.54, name by name."""

from __future__ import annotations

import inspect
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("connection_made", ["transport"]),
        ("connection_lost", ["exc"]),
        ("data_received", ["data"]),
        ("on_message_begin", []),
        ("on_url", ["url"]),
        ("on_header", ["name", "value"]),
        ("on_headers_complete", []),
        ("on_body", ["body"]),
        ("on_message_complete", []),
        ("on_response_complete", []),
        ("send_400_response", ["msg"]),
        ("_start_asgi_task", ["cycle", "app"]),
    ],
)
def test_what_is_overridden_is_there(name: str, parameters: list[str]) -> None:
    method = getattr(HttpToolsProtocol, name)
    assert list(inspect.signature(method).parameters) == ["self", *parameters]


async def test_what_is_read_of_a_connection_is_there() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    config = uvicorn.Config(app, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    made: Any = HttpToolsProtocol(config=config, server_state=state, app_state={}, _loop=None)
    assert made.cycle is None
    assert len(made.pipeline) == 0
    made.on_message_begin()
    assert made.scope["state"] == {}, "a state of its own for each request"
    assert {"loop", "transport", "flow", "logger", "tasks", "server_state"} <= set(vars(made))
    assert (made.headers, made.url) == ([], b"")


def test_what_is_set_and_read_of_a_server_at_its_start_is_there() -> None:
    """`HttpServer.startup` takes the place of uvicorn's."""
    source = inspect.getsource(uvicorn.Server.startup)
    for name in ("self.servers: list", "self.started = True", "return config.http_protocol_class("):
        assert name in source
    assert "for server in self.servers:" in inspect.getsource(uvicorn.Server.shutdown)
    assert list(inspect.signature(uvicorn.Server.startup).parameters) == ["self", "sockets"]


def test_what_is_read_of_an_exchange_is_there() -> None:
    source = inspect.getsource(RequestResponseCycle.__init__)
    named = ("more_body", "response_started", "response_complete", "keep_alive", "disconnected")
    for name in (*named, "body", "message_event", "transport", "on_response"):
        assert f"self.{name} = " in source
    assert httptools_impl.STATUS_LINE[408].startswith(b"HTTP/1.1 408 ")


def test_a_body_is_read_as_bytes() -> None:
    """So that it may be bytes, which are then not copied."""
    assert '"body": bytes(self.body)' in inspect.getsource(RequestResponseCycle.receive)
    assert "self.cycle.body += body" in inspect.getsource(HttpToolsProtocol.on_body)


def test_what_is_asked_of_the_parser_is_there() -> None:
    """On its word a connection goes on after a refusal."""

    class Heard:
        def on_headers_complete(self) -> None:
            heard.append(
                (
                    parser.get_method(),
                    parser.get_http_version(),
                    parser.should_keep_alive(),
                    parser.should_upgrade(),
                )
            )

    heard: list[tuple[bytes, str, bool, bool]] = []
    parser = httptools.HttpRequestParser(Heard())
    parser.feed_data(b"GET / HTTP/1.1\r\n\r\n")
    parser.feed_data(b"PUT / HTTP/1.1\r\nConnection: close\r\n\r\n")
    parser = httptools.HttpRequestParser(Heard())
    with pytest.raises(httptools.HttpParserUpgrade):
        parser.feed_data(b"CONNECT x:1 HTTP/1.1\r\n\r\n")
    assert heard == [
        (b"GET", "1.1", True, False),
        (b"PUT", "1.1", False, False),
        (b"CONNECT", "1.1", True, True),
    ]


def test_an_exception_in_a_callback_stops_the_parser_as_a_parser_error() -> None:
    class Stops:
        def on_url(self, url: bytes) -> None:
            raise RuntimeError

    parser = httptools.HttpRequestParser(Stops())
    with pytest.raises(httptools.HttpParserError):
        parser.feed_data(b"GET / HTTP/1.1\r\n")
