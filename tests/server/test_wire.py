"""What leaves on an HTTP connection, byte by byte."""

from __future__ import annotations

from tests.server.process import ServerProcess
from tests.server.raw import GET, connect, head


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
