"""Requests that their heads refuse, which are answered before they have a task of their own."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct

import pytest

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import GET, PATIENCE_S, alive, connect, head, statuses, until_closed

BAD_KEY = b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-API-Key: " + b"wrong" * 8 + b"\r\n\r\n"


def answers(raw: socket.socket, count: int) -> list[int]:
    """Statuses of so many answers."""
    received = b""
    while len(statuses(received)) < count or not received.endswith(b"}"):
        part = raw.recv(65536)
        assert part, f"closed after {statuses(received)}"
        received += part
    return statuses(received)


@pytest.mark.parametrize(
    "refused",
    [
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT http://x/v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["upgrade", "connect", "connect, absolute"],
)
def test_nothing_behind_a_refused_upgrade_is_a_request(
    refused: bytes, small: ServerProcess
) -> None:
    """The parser drops the rest of its packet, and would take the next one for a new request."""
    with connect(small) as raw:
        raw.sendall(refused + head(small, f"Content-Length: {len(GET)}"))
        received = raw.recv(65536)
        with contextlib.suppress(OSError):
            raw.sendall(GET)
        received += until_closed(raw)
    assert len(statuses(received)) == 1


@pytest.mark.parametrize("url", ["http://x", "http://x:80", "http://x?a=b"])
@pytest.mark.parametrize("last", ["HTTP/1.1", "HTTP/1.0", "HTTP/1.1\r\nConnection: close"])
def test_a_url_without_a_path_is_no_fault_of_ours(
    url: str, last: str, small: ServerProcess
) -> None:
    """It means `/`; else a stranger could fill the log with tracebacks."""
    with connect(small) as raw:
        # Judged at once, and by a task of its own.
        raw.sendall(f"PUT {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw.sendall(f"GET {url} {last}\r\nHost: x\r\n\r\n".encode())
        assert answers(raw, 2) == [401, 200]
    assert "unhandled error" not in small.log_text()


def test_a_packet_full_of_refusals_does_not_hold_up_the_others(small: ServerProcess) -> None:
    """It holds thousands of heads, and all would be judged before anybody else's turn."""
    with connect(small) as raw:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.sendall(BAD_KEY * 20_000)
        found = statuses(until_closed(raw))
    assert set(found) <= {401, 400}
    assert len(found) < 100


@pytest.fixture
def slow(start_server: StartServer) -> ServerProcess:
    settings = {
        "REALFAKE_LIMITS__MAX_IN_FLIGHT": "1",
        "REALFAKE_SERVER__KEEP_ALIVE_S": "1",
        "REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "5",
    }
    return start_server(settings, stub={"STUB_FORWARD_S": "1.5"}).wait_ready()


def ended(server: ServerProcess) -> list[int]:
    """Statuses of the requests that ended, in order."""
    return [line["status"] for line in server.log_lines() if line["message"] == "request"]


def until_on_device(server: ServerProcess) -> None:
    path = server.directory / "batches.jsonl"
    eventually(lambda: path.exists() or None, PATIENCE_S, "the network to see a picture")


def test_requests_are_judged_in_their_turn(slow: ServerProcess, photo: bytes) -> None:
    """Not by what is inside while another of their own connection is answered; nor is that one
    cut by the end of the rest after a refusal in front of it."""
    with connect(slow) as raw:
        raw.sendall(BAD_KEY + whole(slow, photo))
        until_on_device(slow)
        raw.sendall(whole(slow, photo))
        assert answers(raw, 3) == [401, 200, 200]


def test_a_caller_that_goes_is_no_error_of_ours(slow: ServerProcess, photo: bytes) -> None:
    """Nor where another of its requests waits behind the one being answered, which is given up."""
    with connect(slow) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(whole(slow, photo) * 2)
        until_on_device(slow)

    found = eventually(lambda: ended(slow) or None, PATIENCE_S, "the end of the request")
    assert found == [499]
    alive(slow)
    assert [line for line in slow.log_lines() if line["level"] in ("ERROR", "CRITICAL")] == []


def test_a_caller_that_goes_is_heard_whatever_came_with_the_end_of_its_body(
    slow: ServerProcess, photo: bytes
) -> None:
    """A connection stops reading where another request is behind the one that it answers."""
    with connect(slow) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(whole(slow, photo)[: -len(photo)])
        alive(slow)  # it waits for the body by then
        raw.sendall(photo + GET)
        until_on_device(slow)
    assert eventually(lambda: ended(slow) or None, PATIENCE_S, "the end of the request") == [499]


def test_a_broken_body_behind_a_request_does_not_take_its_answer(
    slow: ServerProcess, photo: bytes
) -> None:
    begun = head(slow, "Content-Type: image/jpeg", "Transfer-Encoding: chunked") + b"5\r\nabc"
    for behind in (begun + b"no chunk\r\n", GET + begun + b"no chunk\r\n"):
        with connect(slow) as raw:
            raw.sendall(whole(slow, photo) + behind)
            found = statuses(until_closed(raw))
        assert found == [200] * (1 + behind.startswith(GET))


def test_a_stop_waits_for_the_body_of_a_refused_request(slow: ServerProcess) -> None:
    """Were it closed before, its caller would be cut while it sends."""
    with connect(slow) as raw:
        refused = head(slow, "Content-Length: 2000").replace(b"X-API-Key: ", b"X-API-Key: x")
        raw.sendall(refused + bytes(1000))
        received = raw.recv(65536)
        slow.signal(signal.SIGTERM)
        eventually(lambda: is_closed(slow) or None, PATIENCE_S, "the port to close")
        for _ in range(1000):
            raw.sendall(b"x")
        received += until_closed(raw)
    assert statuses(received) == [401]


def is_closed(server: ServerProcess) -> bool:
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def whole(server: ServerProcess, photo: bytes) -> bytes:
    return head(server, "Content-Type: image/jpeg", f"Content-Length: {len(photo)}") + photo
