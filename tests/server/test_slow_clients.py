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
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.process import ServerProcess, eventually

INFER = "/v2/models/realfake/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
MAX_CONNECTIONS = 40
REQUEST_BYTES = 1024 * 1024
PATIENCE_S = 30.0
T = TypeVar("T")
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("small")
    settings = {
        "STUB_LOG": str(directory / "batches.jsonl"),
        "STUB_FORWARD_S": "0",
        "REALFAKE_DECODING__WORKERS": "1",
        "REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "1",
        "REALFAKE_SERVER__KEEP_ALIVE_S": "2",
        "REALFAKE_LIMITS__MAX_IN_FLIGHT": "16",
        "REALFAKE_LIMITS__MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "REALFAKE_LIMITS__MAX_REQUEST_BYTES": str(REQUEST_BYTES),
        "REALFAKE_LIMITS__MAX_IMAGE_BYTES": str(REQUEST_BYTES),
        "REALFAKE_LIMITS__MAX_BYTES_IN_FLIGHT": str(2 * REQUEST_BYTES),
        "REALFAKE_LIMITS__MAX_HEADER_BYTES": "8192",
        "REALFAKE_LIMITS__MAX_HEADERS": "50",
        "REALFAKE_SERVER__DOCS_ENABLED": "true",
    }
    process = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0


@pytest.fixture(autouse=True)
def others_are_served(small: ServerProcess, photo: bytes) -> Iterator[None]:
    """Whatever a test did, the next caller is answered, on both protocols."""
    yield
    with small.client() as client:
        answer = client.post(INFER, content=photo, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    with grpc.insecure_channel(small.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live


def connect(server: ServerProcess, protocol: str = "http") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.listening[f"{protocol}_port"]), PATIENCE_S)


def head(server: ServerProcess, *lines: str, method: str = "POST", path: str = INFER) -> bytes:
    fixed = (f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {server.api_key}")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def until_closed(raw: socket.socket) -> bytes:
    """What the server says before it closes; a reset after it ends it as well."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            parts.append(part)
    return b"".join(parts)


def refusal(answer: bytes) -> str:
    """The code of a typed refusal that says it closes the connection."""
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in top.lower(), answer
    found = json.loads(body)
    assert set(found) == {"error", "code", "request_id"}
    return str(found["code"])


def drip(raw: socket.socket, data: bytes) -> bytes:
    """Send byte after byte, over and over, until the server has had enough; what it says."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for byte in data:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                raw.send(bytes([byte]))
            if select.select([raw], [], [], 0.05)[0]:
                return until_closed(raw)
    raise AssertionError("the server waits for ever")


def rss(server: ServerProcess) -> int:
    """Bytes in memory."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def descriptors(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


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


def ended_for(server: ServerProcess, reason: str) -> None:
    """Wait until the log counts connections that ended for this reason."""

    def logged() -> bool | None:
        lines = [line for line in server.log_lines() if line["message"] == "connections ended"]
        return any(reason in line["reasons"] for line in lines) or None

    eventually(logged, PATIENCE_S, f"{reason} in the log")


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


def while_held(server: ServerProcess, held: list[int], attempt: Callable[[], T]) -> T:
    """What `attempt` gives while requests of `held` bytes are on their way and do not arrive."""
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            holders = [stack.enter_context(connect(server)) for _ in held]
            for holder, size in zip(holders, held, strict=True):
                holder.sendall(head(server, "Content-Type: image/jpeg", f"Content-Length: {size}"))
            for _ in range(3):  # by then the loop has seen what came before
                alive(server)
            found = attempt()
            if not select.select(holders, [], [], 0)[0]:
                return found
    raise AssertionError("this machine is too slow to look before the time is over")


def alive(server: ServerProcess) -> None:
    with connect(server) as raw:
        raw.sendall(GET)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("framing", [f"Content-Length: {REQUEST_BYTES}", None])
def test_a_body_beyond_the_budget_is_refused_before_it_is_sent(
    framing: str | None, small: ServerProcess
) -> None:
    def attempt() -> bytes:
        with connect(small) as raw:
            lines = ["Content-Type: image/jpeg", framing or "Transfer-Encoding: chunked"]
            raw.sendall(head(small, *lines) + (b"" if framing else b"1\r\nx\r\n"))
            answer = b""
            while not answer.endswith(b"}"):
                answer += raw.recv(65536)
            return answer

    answer = while_held(small, [REQUEST_BYTES, REQUEST_BYTES], attempt)
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


# gRPC


def key(server: ServerProcess) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", server.api_key),)


def answered(call: Any) -> Any:
    call.exception()  # waits
    return call


def call_with(
    messages: Iterable[bytes], server: ServerProcess, metadata: tuple[tuple[str, str], ...]
) -> Any:
    """A finished call that streams `messages` where one is expected."""
    with grpc.insecure_channel(server.grpc) as channel:
        method: Any = channel.stream_unary(METHOD, None, None)
        return answered(method.future(iter(messages), timeout=PATIENCE_S, metadata=metadata))


class Endless:
    """A stream that never has a message, and never ends before its call does."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        threading.Event().wait(PATIENCE_S)
        raise StopIteration


def test_a_grpc_caller_without_a_key_is_refused_before_it_sends(small: ServerProcess) -> None:
    call = call_with(Endless(), small, ())
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_grpc_message_that_does_not_come_is_refused(small: ServerProcess) -> None:
    call = call_with(Endless(), small, key(small))
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.details().startswith("REQUEST_TIMEOUT: ")


@pytest.mark.parametrize("messages", [[b"\xff\xff\xff\xff"], []], ids=["nonsense", "nothing"])
def test_grpc_without_a_message_of_its_type_is_refused(
    messages: list[bytes], small: ServerProcess
) -> None:
    call = call_with(messages, small, key(small))
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert call.details().startswith("INVALID_REQUEST: ")


def test_a_grpc_message_beyond_the_budget_is_refused(small: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="realfake")
    message.raw_input_contents.append(bytes(REQUEST_BYTES * 3 // 4))
    with grpc.insecure_channel(small.grpc) as channel:
        method = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        call = while_held(
            small,
            [REQUEST_BYTES],
            lambda: answered(method.future(message, metadata=key(small), timeout=PATIENCE_S)),
        )
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details().startswith("OVERLOADED: ")


def test_large_grpc_metadata_is_refused(small: ServerProcess) -> None:
    with grpc.insecure_channel(small.grpc) as channel:
        method: Any = pb_grpc.GRPCInferenceServiceStub(channel).ServerLive
        large = (("x-large", "a" * 16_384),)
        call = answered(method.future(pb.ServerLiveRequest(), metadata=large, timeout=PATIENCE_S))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_grpc_bomb_is_refused_and_costs_no_memory(small: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="realfake")
    message.raw_input_contents.append(bytes(128 * REQUEST_BYTES))
    before = rss(small)
    with grpc.insecure_channel(small.grpc) as channel:
        method: Any = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        gzip = grpc.Compression.Gzip
        call = answered(method.future(message, metadata=key(small), timeout=60, compression=gzip))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ExecuteBatchError" not in small.log_text()
    assert rss(small) - before < 16 * REQUEST_BYTES


def test_watches_without_end_are_bounded(small: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        # Several connections, or gRPC's own bound on the streams of one holds them back.
        own = [("grpc.use_local_subchannel_pool", 1)]
        stubs = [
            health_pb2_grpc.HealthStub(stack.enter_context(grpc.insecure_channel(small.grpc, own)))
            for _ in range(3)
        ]
        held = watches(stubs[0], MAX_CONNECTIONS // 2) + watches(stubs[1], MAX_CONNECTIONS // 2)
        assert refusals(held) == []
        assert refusals(watches(stubs[2], 2)) == [grpc.StatusCode.UNAVAILABLE] * 2
        held[0].cancel()
        eventually(lambda: not refusals(watches(stubs[2], 1)) or None, PATIENCE_S, "the place left")


def watches(health: health_pb2_grpc.HealthStub, count: int) -> list[Any]:
    request = health_pb2.HealthCheckRequest()
    return [health.Watch(request, timeout=PATIENCE_S) for _ in range(count)]


def refusals(streams: list[Any]) -> list[grpc.StatusCode]:
    """The status of those that do not begin."""
    found = []
    for stream in streams:
        try:
            next(stream)
        except grpc.RpcError:
            found.append(stream.code())
    return found


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4)


@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n"], ids=["silence", "half a preface"])
def test_a_grpc_connection_that_says_nothing_is_closed(sent: bytes, small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(sent)
        until_closed(raw)


@pytest.mark.parametrize(
    "sent",
    [PREFACE, PREFACE + frame(1, b"\x82", stream=1)],
    ids=["idle", "headers without end"],
)
def test_a_grpc_connection_without_calls_is_closed(sent: bytes, small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(sent)
        until_closed(raw)


def test_grpc_pings_without_end_are_cut(small: ServerProcess) -> None:
    with connect(small, "grpc") as raw:
        raw.sendall(PREFACE)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100):
                raw.sendall(frame(6, bytes(8)))
        assert b"too_many_pings" in until_closed(raw)


def test_more_grpc_connections_than_allowed_are_closed(small: ServerProcess) -> None:
    before = descriptors(small)
    with grpc.insecure_channel(small.grpc) as channel, contextlib.ExitStack() as stack:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live
        flood = [stack.enter_context(connect(small, "grpc")) for _ in range(5 * MAX_CONNECTIONS)]
        for raw in flood:
            with contextlib.suppress(OSError):
                raw.sendall(PREFACE)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live
        eventually(
            lambda: descriptors(small) <= before + MAX_CONNECTIONS + 4 or None,
            PATIENCE_S,
            "the surplus to be closed",
        )


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
    with small.client() as client:
        while attack.poll() is None:
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
