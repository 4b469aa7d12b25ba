"""Connections that are slow, greedy or broken, against the real process with small limits.

Each test asks the same of the server: the offender is told or cut, everybody else is served.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import resource
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.server.process import ServerProcess, eventually
from tests.server.raw import (
    GET,
    INFER,
    MAX_CONNECTIONS,
    PATIENCE_S,
    PREFACE,
    REQUEST_BYTES,
    alive,
    connect,
    descriptors,
    drip,
    ended_for,
    head,
    refusal,
    rss,
    until_closed,
    while_held,
)

CHUNK = b"%x\r\n%s\r\n" % (REQUEST_BYTES // 4, bytes(REQUEST_BYTES // 4))

pytestmark = pytest.mark.usefixtures("others_are_served")


# Slow


def test_a_connection_that_says_nothing_is_closed(small: ServerProcess) -> None:
    with connect(small) as raw:
        assert until_closed(raw) == b""


@pytest.mark.parametrize(
    "sent", [b"GET /", b"GET / HTTP/1.1\r\nHo"], ids=["request line", "headers"]
)
def test_a_head_that_drips_is_refused_however_steadily(sent: bytes, small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(sent)
        assert refusal(drip(raw, b"x")) == "REQUEST_TIMEOUT"


def test_line_ends_do_not_keep_a_connection_open(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
        assert refusal(drip(raw, b"\r\n")) == "REQUEST_TIMEOUT"


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_drips_is_refused(framing: str, small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, "Content-Type: image/jpeg", framing))
        assert refusal(drip(raw, b"1\r\nx\r\n" if "chunked" in framing else b"x")) == (
            "REQUEST_TIMEOUT"
        )


def test_an_idle_connection_is_closed(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(GET)
        answer = until_closed(raw)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" not in answer.lower()


def test_a_client_that_takes_no_answer_is_cut(small: ServerProcess) -> None:
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.settimeout(PATIENCE_S)
        raw.connect(("127.0.0.1", small.listening["http_port"]))
        poll = select.poll()
        poll.register(raw, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
        end = time.monotonic() + PATIENCE_S
        while not poll.poll(100):
            assert time.monotonic() < end, "the answers wait for ever"
            with contextlib.suppress(OSError):
                raw.send(head(small, method="GET", path="/openapi.json") * 8, socket.MSG_DONTWAIT)
    ended_for(small, "answer_not_read")


# Greedy


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 20_000,
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: aaaaaaaaaa\r\n" * 49 + b"Y: " + b"b" * 9_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 60 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X:\r\n" * 60,
    ],
    ids=["endless line", "long line", "endless header", "large head", "headers", "empty headers"],
)
def test_a_head_that_is_too_large_is_refused(sent: bytes, small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(sent)
        assert refusal(until_closed(raw)) == "INVALID_REQUEST"


def test_endless_trailers_are_refused(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, "Content-Type: image/jpeg", "Transfer-Encoding: chunked"))
        raw.sendall(b"1\r\nx\r\n0\r\nX: ")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                raw.sendall(b"a" * 4096)
        assert refusal(until_closed(raw)) == "INVALID_REQUEST"


def test_some_pipelined_requests_are_answered_in_order(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(GET * 8)
        assert until_closed(raw).count(b"HTTP/1.1 200") == 8


def test_a_flood_of_pipelined_requests_costs_no_memory(small: ServerProcess) -> None:
    before = rss(small)
    flood = GET * 50_000
    for _ in range(10):
        with connect(small) as raw, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.sendall(flood)
            until_closed(raw)
    assert rss(small) - before < 16 * 1024 * 1024


def test_more_connections_than_allowed_displace_the_idle(small: ServerProcess) -> None:
    before = descriptors(small)
    with contextlib.ExitStack() as stack:
        for _ in range(5 * MAX_CONNECTIONS):
            stack.enter_context(connect(small)).send(b"GET / HT")
            alive(small)  # as a probe would ask
            assert descriptors(small) <= before + MAX_CONNECTIONS + 1


@pytest.mark.parametrize("framing", [f"Content-Length: {REQUEST_BYTES}", None])
def test_a_body_beyond_the_budget_is_refused_before_it_is_sent(
    framing: str | None, small: ServerProcess
) -> None:
    def attempt() -> bytes:
        with connect(small) as raw:
            lines = ["Content-Type: image/jpeg", framing or "Transfer-Encoding: chunked"]
            raw.sendall(head(small, *lines) + (b"" if framing else CHUNK))
            answer = b""
            while not answer.endswith(b"}"):
                answer += raw.recv(65536)
            return answer

    answer = while_held(small, [REQUEST_BYTES, REQUEST_BYTES // 2], attempt)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in answer
    assert b"OVERLOADED" in answer


def test_a_bomb_counts_by_what_it_becomes(small: ServerProcess) -> None:
    bomb = gzip.compress(bytes(REQUEST_BYTES - 1))
    with small.client() as client:
        refused = while_held(
            small,
            [REQUEST_BYTES, REQUEST_BYTES // 2],
            lambda: client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"}),
        )
    assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")


# Refused before its body is read


def refused_with_body(small: ServerProcess, length: int, sent: bytes, *lines: str) -> bytes:
    """A request without a valid key; its head, and of its body what is sent."""
    top = head(small, f"Content-Length: {length}", *lines)
    return top.replace(small.api_key.encode(), b"wrong" * 8) + sent


def answers(raw: socket.socket, count: int) -> bytes:
    received = b""
    while received.count(b"HTTP/1.1 ") < count or not received.endswith(b"}"):
        part = raw.recv(65536)
        assert part, f"closed after {received!r}"
        received += part
    return received


@pytest.mark.parametrize("at_once", [True, False])
def test_a_refused_request_with_a_small_body_keeps_its_connection(
    at_once: bool, small: ServerProcess
) -> None:
    """A new one for each refusal costs both sides more than the refusal."""
    body = bytes(20_000)
    with connect(small) as raw:
        for _ in range(3):
            raw.sendall(refused_with_body(small, len(body), body if at_once else body[:100]))
            answer = answers(raw, 1)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" not in answer.lower()
            if not at_once:
                raw.sendall(body[100:])
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_refused_body_is_no_request(small: ServerProcess) -> None:
    """Were it read as one, a proxy's next caller would get the answer to it."""
    with connect(small) as raw:
        raw.sendall(refused_with_body(small, 2 * len(GET), b""))
        assert answers(raw, 1).startswith(b"HTTP/1.1 401 ")
        raw.sendall(GET * 3)
        received = answers(raw, 1)
        assert received.count(b"HTTP/1.1 ") == 1


def test_a_refused_body_that_does_not_come_costs_its_connection(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(refused_with_body(small, 1000, b"x"))
        received = drip(raw, b"x")
        assert received.startswith(b"HTTP/1.1 401 ")
        received += until_closed(raw)
        assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("length", "lines"),
    [(1000, ["Expect: 100-continue"]), (REQUEST_BYTES, [])],
    ids=["waits for our word", "large"],
)
def test_a_caller_whose_body_is_not_wanted_is_told_to_stop(
    length: int, lines: list[str], small: ServerProcess
) -> None:
    with connect(small) as raw:
        raw.sendall(refused_with_body(small, length, b"", *lines))
        assert refusal(until_closed(raw)) == "UNAUTHENTICATED"


# Broken


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n",
    ],
    ids=["tls", "version", "path", "url", "two lengths", "two framings", "header"],
)
def test_what_is_no_http_is_refused_in_json(sent: bytes, small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        assert refusal(until_closed(raw)) == "INVALID_REQUEST"


def test_broken_chunks_are_refused_in_json(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, "Content-Type: image/jpeg", "Transfer-Encoding: chunked"))
        raw.sendall(b"nonsense\r\n")
        assert refusal(until_closed(raw)) == "INVALID_REQUEST"


def test_a_flood_of_nonsense_is_no_flood_of_log_lines(small: ServerProcess) -> None:
    lines = len(small.log_lines())
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    for _ in range(150):
        with connect(small) as raw:
            raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            until_closed(raw)
    with connect(small) as raw:
        raw.sendall(upgrade)
        assert raw.recv(65536).startswith(b"HTTP/1.1 ")
    ended_for(small, "INVALID_REQUEST")
    new = small.log_lines()[lines:]
    assert len(new) < 10
    assert not [line for line in new if "Traceback" in json.dumps(line)]


# The whole attack, by a tool that others wrote


TARGET = "-c 300 -r 150 -i 1 -l 8 -p 2 -u"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="slowhttptest is not installed")
@pytest.mark.parametrize(
    "mode",
    [["-H"], ["-B", "-s", "8192"], ["-X", "-w", "1", "-y", "2", "-z", "1"]],
    ids=["slow headers", "slow body", "slow read"],
)
def test_slowhttptest_finds_the_service_available(
    mode: list[str], small: ServerProcess, tmp_path: Path, photo: bytes
) -> None:
    before = rss(small)
    url = f"{small.url}{INFER if '-B' in mode else '/v2/health/live'}"
    attack = subprocess.Popen(
        ["slowhttptest", *mode, *TARGET.split(), url, "-m", f"*/*\r\nX-API-Key: {small.api_key}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    served = 0
    while attack.poll() is None:
        # A kept connection may be closed for a newcomer just as it is used again: none is kept.
        with contextlib.suppress(httpx.TransportError), small.client() as client:
            answer = client.post(INFER, content=photo, headers={"Content-Type": "image/jpeg"})
            assert answer.status_code in (200, 503), answer.text
            served += answer.status_code == 200
    assert served > 0
    assert rss(small) - before < 32 * 1024 * 1024


def test_running_out_of_file_descriptors_is_survived(small: ServerProcess) -> None:
    pid = small.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(small) + 10, limits[1]))
    try:
        with contextlib.ExitStack() as stack:
            for protocol in ("http", "grpc") * 30:
                raw = stack.enter_context(connect(small, protocol))
                raw.sendall(GET if protocol == "http" else PREFACE)
            eventually(
                lambda: (
                    descriptors(small) >= resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] - 1
                    or None
                ),
                PATIENCE_S,
                "the descriptors to run out",
            )
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert small.process.poll() is None
