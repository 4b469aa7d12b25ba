"""Who makes room when there are as many HTTP connections as there may be."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import GET, MAX_CONNECTIONS, PATIENCE_S, REQUEST_BYTES, alive, connect, head

FEW = 4


def answered(raw: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"}"):
        part = raw.recv(65536)
        assert part, f"closed after {received!r}"
        received += part
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        b"POST /infer HTTP/1.0\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        f"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: {REQUEST_BYTES}\r\n\r\n".encode(),
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
    ],
    ids=["refused at once", "refused in its task", "a body not wanted", "public"],
)
def test_bodies_that_do_not_come_keep_nobody_out(sent: bytes, small: ServerProcess) -> None:
    """Whoever asks so is answered, and waited for; without a key, by the thousand."""
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            raw = stack.enter_context(connect(small))
            raw.sendall(sent)
            assert b"too many connections" not in answered(raw)
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connect(small)).sendall(sent)
            alive(small)  # as a probe would ask


@pytest.fixture
def few(start_server: StartServer) -> ServerProcess:
    settings = {
        "REALFAKE_LIMITS__MAX_IN_FLIGHT": "1",
        "REALFAKE_LIMITS__MAX_CONNECTIONS": str(FEW),
        "REALFAKE_SERVER__HEALTH_PORT": "0",
    }
    return start_server(settings, stub={"STUB_FORWARD_S": "1"}).wait_ready()


@pytest.mark.parametrize("first", ["GET /v2/health/live", "POST /v2"])
def test_a_body_that_came_after_all_leaves_room_for_a_request(
    first: str, few: ServerProcess, photo: bytes
) -> None:
    """What is asked behind it is answered, however many others come meanwhile."""
    with connect(few) as raw:
        raw.sendall(f"{first} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode())
        answered(raw)
        asked = head(few, "Content-Type: image/jpeg", f"Content-Length: {len(photo)}")
        raw.sendall(bytes(10) + asked + photo)
        batches = few.directory / "batches.jsonl"
        eventually(lambda: batches.exists() or None, PATIENCE_S, "the network to see a picture")
        with contextlib.ExitStack() as stack:
            for _ in range(2 * FEW):
                stack.enter_context(connect(few))
                alive(few)
        assert answered(raw).startswith(b"HTTP/1.1 200 ")


def test_the_health_port_and_the_others_take_no_connection_from_each_other(
    few: ServerProcess,
) -> None:
    def ask(raw: socket.socket) -> None:
        raw.sendall(GET)
        assert answered(raw).startswith(b"HTTP/1.1 200 ")

    for kept, flooded in (("health", "http"), ("http", "health")):
        with connect(few, kept) as raw, contextlib.ExitStack() as stack:
            ask(raw)
            for _ in range(5 * FEW):
                ask(stack.enter_context(connect(few, flooded)))
            ask(raw)
