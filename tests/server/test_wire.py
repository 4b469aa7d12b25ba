"""What leaves on an HTTP connection, byte by byte."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import (
    GET,
    INFER,
    REQUEST_BYTES,
    connect,
    head,
    rss,
    statuses,
    until_closed,
)


def test_an_answer_leaves_in_one_piece(small: ServerProcess) -> None:
    with connect(small) as raw:
        for _ in range(20):
            raw.sendall(GET)
            assert raw.recv(65536).endswith(b"}")


def test_an_answer_without_a_body_leaves_too(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, method="HEAD", path="/v2"))
        answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_caller_that_asks_first_is_told_to_go_on(small: ServerProcess, photo: bytes) -> None:
    lines = ["Content-Type: image/jpeg", f"Content-Length: {len(photo)}", "Expect: 100-continue"]
    with connect(small) as raw:
        raw.sendall(head(small, *lines))
        assert raw.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(photo)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("garbage", [b"\x00\xff garbage\r\n\r\n", b"X-API-Key: late\r\n\r\n"])
def test_a_whole_request_is_answered_whatever_follows_it(
    small: ServerProcess, photo: bytes, garbage: bytes
) -> None:
    """Behind it the connection is of no more use, but its answer is owed."""
    lines = ["Content-Type: image/jpeg", f"Content-Length: {len(photo)}"]
    with connect(small) as raw:
        raw.sendall(head(small, *lines) + photo + garbage)
        answer = until_closed(raw)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_broken_request_is_not_answered_in_place_of_the_one_before(
    small: ServerProcess, photo: bytes
) -> None:
    whole = head(small, "Content-Type: image/jpeg", f"Content-Length: {len(photo)}") + photo
    broken = head(small, "Transfer-Encoding: chunked") + b"no chunk at all\r\n"
    with connect(small) as raw:
        raw.sendall(whole + broken)
        assert b" 400 " not in until_closed(raw)[:20]


def test_a_refusal_waits_for_the_answer_in_front_of_it(small: ServerProcess, photo: bytes) -> None:
    """It is decided as soon as its head is read, while the other's picture is being looked at."""
    whole = head(small, "Content-Type: image/jpeg", f"Content-Length: {len(photo)}") + photo
    refused = whole.replace(small.api_key.encode(), b"wrong" * 8)
    received = b""
    with connect(small) as raw:
        raw.sendall(whole + refused + GET + refused)
        while received.count(b"HTTP/1.1 ") < 4 or not received.endswith(b"}"):
            part = raw.recv(65536)
            assert part, received
            received += part
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"401", b"200", b"401"]


def test_a_refused_head_has_an_answer_without_a_body(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, method="HEAD", path="/v2").replace(b"X-API-Key: ", b"X-API-Key: x"))
        answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert answer.endswith(b"\r\n\r\n")
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


# What could be taken for another request


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")


@pytest.mark.parametrize("key", [True, False], ids=["good key", "bad key"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_behind_connect_is_no_request(
    *, at_once: bool, key: bool, small: ServerProcess
) -> None:
    """The parser takes what follows for another protocol's."""
    top = head(small, f"Content-Length: {len(GET)}", method="CONNECT")
    if not key:
        top = top.replace(small.api_key.encode(), b"wrong" * 8)
    with connect(small) as raw:
        raw.sendall(top + GET if at_once else top)
        first = raw.recv(65536)
        with contextlib.suppress(OSError):
            raw.sendall(GET)
        assert (first + until_closed(raw)).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("key", [True, False], ids=["good key", "bad key"])
@pytest.mark.parametrize(
    "split", [0, 20, -1, -len(GET)], ids=["at once", "in the head", "in the body", "between"]
)
def test_a_body_behind_an_upgrade_is_a_body(
    *, split: int, key: bool, method: str, small: ServerProcess
) -> None:
    """A request inside it is none, and the one behind it is."""
    top = head(small, *UPGRADE, f"Content-Length: {len(GET)}", method=method)
    if not key:
        top = top.replace(small.api_key.encode(), b"wrong" * 8)
    sent = top + GET
    with connect(small) as raw:
        raw.sendall(sent[:split])
        raw.sendall(sent[split:])
        raw.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        found = statuses(until_closed(raw))
    first = 401 if not key else 400 if method == "POST" else 405
    assert found == [first, 200]


@pytest.mark.parametrize("chunked", [True, False])
def test_a_picture_with_an_offer_of_http2_is_answered(
    chunked: bool, small: ServerProcess, photo: bytes
) -> None:
    """As Java's client sends it by default."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(photo)}"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(photo), photo) if chunked else photo
    picture = head(small, *UPGRADE, "Content-Type: image/jpeg", length) + body
    last = picture.replace(b"Host: x", b"Host: x\r\nConnection: close", 1)
    with connect(small) as raw:
        raw.sendall(picture + last)
        answers = until_closed(raw)
    assert statuses(answers) == [200, 200]
    assert answers.count(b'"verdict"') == 2


@pytest.mark.parametrize("key", [True, False], ids=["good key", "bad key"])
def test_a_length_of_thousands_of_zeros_is_a_length(
    key: bool, small: ServerProcess, photo: bytes
) -> None:
    zeros = "0" * 5000
    top = head(small, "Content-Type: image/jpeg", f"Content-Length: {zeros}{len(photo)}")
    if not key:
        top = top.replace(small.api_key.encode(), b"wrong" * 8)
    with connect(small) as raw:
        raw.sendall(top + photo)
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 " if key else b"HTTP/1.1 401 ")
    assert b"x-request-id: " in answer


def test_an_answer_to_head_does_not_wait_for_a_body(small: ServerProcess) -> None:
    with connect(small) as raw:
        raw.sendall(head(small, "Content-Length: 5", method="HEAD", path="/v2/health/live"))
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"later" + GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


# What is kept


def test_refused_bodies_are_not_kept_in_memory(small: ServerProcess) -> None:
    body = bytes(REQUEST_BYTES - 1)
    with small.client() as client:
        before = rss(small)
        for _ in range(200):
            refused = client.post(INFER, content=body, headers={"Content-Type": "image/jpeg"})
            assert refused.status_code == 415, refused.text
    assert rss(small) - before < 32 * 1024 * 1024


def test_refused_bodies_of_several_pictures_are_not_kept_in_memory(small: ServerProcess) -> None:
    size = REQUEST_BYTES // 3
    pictures = (size.to_bytes(4, "little") + bytes(size)) * 2
    tensor = {
        **{"name": "image", "datatype": "BYTES", "shape": [2]},
        "parameters": {"binary_data_size": len(pictures)},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    with small.client() as client:
        before = rss(small)
        for _ in range(200):
            refused = client.post(INFER, content=text + pictures, headers=headers)
            assert refused.status_code == 415, refused.text
            assert refused.json()["error"].startswith("image[0]: ")
    assert rss(small) - before < 32 * 1024 * 1024


def test_a_refused_body_does_not_stay_with_its_idle_connection(start_server: StartServer) -> None:
    server = start_server(stub={}).wait_ready()
    body = bytes(60_000)
    request = head(server, f"Content-Length: {len(body)}", path="/no/such/route") + body
    with contextlib.ExitStack() as idle:
        before = rss(server)
        for _ in range(400):
            raw = idle.enter_context(connect(server))
            raw.sendall(request)
            assert raw.recv(65536).startswith(b"HTTP/1.1 404 ")
        assert rss(server) - before < 400 * len(body) / 2


def test_a_request_that_outlasts_the_stop_is_answered_and_logged(
    start_server: StartServer, photo: bytes
) -> None:
    settings = {"REALFAKE_SERVER__DRAIN_TIMEOUT_S": "1"}
    server = start_server(settings, stub={"STUB_FORWARD_S": "5"}).wait_ready()
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            client.post, INFER, content=photo, headers={"Content-Type": "image/jpeg"}
        )
        batches = server.directory / "batches.jsonl"
        eventually(lambda: batches.exists() or None, 30, "its forward to begin")
        server.signal(signal.SIGTERM)
        answer = waiting.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "NOT_READY")
    assert server.wait() == 0
    identity = answer.headers["x-request-id"]
    [line] = [line for line in server.log_lines() if line.get("request_id") == identity]
    assert (line["status"], line["code"]) == (503, "NOT_READY")
