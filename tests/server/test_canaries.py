"""Whatever a client sends, answers, logs and audit records stay JSON and repeat none of it.

Each test sends secrets, marked by `CANARY`, in places where careless code would quote them; the
last word is `watched`, which reads all that the process wrote.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from prometheus_client.openmetrics import parser as openmetrics
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from predictor.security.audit_verify import Verifier, lines_of
from tests.pictures import jpeg, noise, saved
from tests.server.process import ServerProcess
from tests.server.scrape import scrape, url

CANARY = "canary7f3a"
NAME = "name5d0b"
"""The name of a tensor and the like: an answer may quote it, short and escaped, and no log."""
INFER = "/v2/models/realfake/infer"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]")
"""Ends a line, moves a cursor or turns text around, in some reader."""
METRICS = ("text/plain", "application/openmetrics-text; version=1.0.0")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
NASTY = [
    b'\r\n{"forged": true}',
    b"\n",
    b"\x1b[2J\x1b]0;title\x07",
    b"\x00\x7f\x80\xff",
    b"\xe2\x80\xa8\xe2\x80\xae",  # U+2028, and the one that turns text around
    "ü€\U0001f600".encode(),
    b"%0d%0a%1b[31m%00",
    b'"}\\u0000{"',
    b"${jndi:ldap://x}{{7*7}}%s%n",
    b"x" * 6000,
]
HOSTILE = st.one_of(st.sampled_from(NASTY), st.binary(max_size=100)).map(
    lambda tail: CANARY.encode() + tail
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def forms(secret: str) -> list[str]:
    """How a secret may look in what is written."""
    data = secret.encode()
    encoded = {base64.b64encode(bytes(offset) + data)[4:-4].decode() for offset in range(3)}
    return [secret, data.hex(), *encoded]


def clean(text: str, *secrets: str) -> None:
    for secret in secrets:
        for form in forms(secret):
            assert form not in text
    assert not UNSAFE.search(text)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that logs all it can, audits into the same stream, and is searched at its end."""
    directory = tmp_path_factory.mktemp("watched")
    with socket.create_server(("127.0.0.1", 0)) as closed:  # traces are made, and not taken
        port = closed.getsockname()[1]
    variables = {
        "REALFAKE_AUDIT__DESTINATION": "stdout",
        "REALFAKE_TELEMETRY__LOG_LEVEL": "DEBUG",
        "REALFAKE_RATE_LIMIT__RATE": "99999/second",
        "REALFAKE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{port}/{CANARY}",
        "REALFAKE_TELEMETRY__TRACE_SAMPLE_RATIO": "1",
        "STUB_LOG": str(directory / "batches.jsonl"),
    }
    server = ServerProcess(directory, variables, ("-m", "tests.server.stub"))
    try:
        yield server.wait_ready()
        metrics = [
            httpx.get(url(server), headers={"Accept": kind}, timeout=30).text for kind in METRICS
        ]
        assert scrape(server).value("inference_requests_total") > 200
    finally:
        code = server.stop()
    assert code == 0
    for text in metrics:  # exemplars are in the second
        clean(text, server.api_key, CANARY, NAME)
    parsed = openmetrics.text_string_to_metric_families(metrics[1])  # type: ignore[no-untyped-call]  # untyped package
    assert list(parsed)
    clean(server.log_text(), server.api_key, CANARY, NAME)
    assert server.log_text().isascii()
    lines = server.log_lines()
    assert all(type(line["logger"]) is str and "timestamp" in line for line in lines)
    assert not any("forged" in line for line in lines)
    verifier = Verifier()
    with server.log_path.open("rb") as file:
        verifier.read(lines_of(file), "log")
    assert verifier.report.problems == []
    # Each test here makes records; without them nothing would have been searched.
    assert verifier.report.records > 200


def exchange(
    server: ServerProcess, head: bytes, body: bytes = b""
) -> list[tuple[int, bytes, bytes]]:
    """Status, head and body of each answer to bytes that no client library would send: of several,
    where they end a head early."""
    lines = head + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.listening["http_port"]), 30) as raw:
        raw.sendall(lines + body)
        rest = b"".join(iter(lambda: raw.recv(65536), b""))
    answers = []
    while rest:
        answered_head, _, rest = rest.partition(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length: (\d+)", answered_head)
        size = len(rest) if length is None else int(length[1])
        answers.append((int(answered_head[9:12]), answered_head, rest[:size]))
        rest = rest[size:]
    assert answers
    return answers


def check(server: ServerProcess, answers: list[tuple[int, bytes, bytes]]) -> None:
    for status, head, body in answers:
        assert status < 500
        clean((head + body).replace(b"\r", b"").decode(), server.api_key, CANARY)
        if b"application/json" in head:
            content = json.loads(body)
            assert content.get("code") is None or REQUEST_ID.fullmatch(content["request_id"])
        else:
            assert status == 400, "only bytes that are not HTTP are answered in plain text"


@FUZZ
@given(
    HOSTILE,
    st.sampled_from(
        ["X-Request-Id", "X-Canary", "User-Agent", "traceparent", "tracestate", "baggage", "Cookie"]
    ),
)
@example(f"{CANARY}\r\n\r\n".encode(), "X-Request-Id")
def test_header_values(watched: ServerProcess, value: bytes, name: str) -> None:
    # A request id of other characters than these would be taken, and repeated.
    value = b"!" + value
    head = b"POST %s HTTP/1.1\r\n%s: %s\r\nX-API-Key: %s\r\nContent-Type: image/jpeg" % (
        INFER.encode(),
        name.encode(),
        value,
        watched.api_key.encode(),
    )
    check(watched, exchange(watched, head, jpeg()))


@FUZZ
@given(
    HOSTILE,
    st.sampled_from(
        [
            *("X-API-Key", "Authorization", "Content-Type", "Content-Encoding"),
            *("X-Request-Timeout-Ms", "Inference-Header-Content-Length", "Expect", "Accept"),
        ]
    ),
    st.booleans(),
)
def test_header_values_that_are_read(
    watched: ServerProcess, value: bytes, name: str, authorized: bool
) -> None:
    key = b"\r\nX-API-Key: " + watched.api_key.encode() if authorized else b""
    prefix = b"Bearer " if name == "Authorization" else b""
    head = b"POST %s HTTP/1.1%s\r\n%s: %s%s" % (INFER.encode(), key, name.encode(), prefix, value)
    check(watched, exchange(watched, head, b"{}"))


@FUZZ
@given(
    HOSTILE, st.sampled_from([b"/v2/models/%s/infer", b"/v1/models/%s:predict", b"/%s", b"/?%s"])
)
def test_paths_and_model_names(watched: ServerProcess, value: bytes, path: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nX-API-Key: %s" % (path % value, watched.api_key.encode())
    check(watched, exchange(watched, head, b"{}"))


def pictures() -> list[bytes]:
    """Pictures that say something, good ones and bad ones."""
    exif = Image.Exif()
    exif[0x010E] = f"{CANARY} description"
    text = PngImagePlugin.PngInfo()
    text.add_text(CANARY, f"{CANARY} value")
    commented = jpeg()[:2] + b"\xff\xfe\x00\x20" + CANARY.encode().ljust(30) + jpeg()[2:]
    return [
        jpeg(exif=exif),
        saved(noise(), "PNG", pnginfo=text),
        commented,
        commented[:400],
        jpeg() + CANARY.encode(),
        CANARY.encode() * 100,
        b"\xff\xd8" + CANARY.encode() * 10,
        b"\x89PNG\r\n\x1a\n" + CANARY.encode() * 10,
        b"RIFF\x00\x01\x00\x00WEBP" + CANARY.encode() * 10,
        f"<svg><text>{CANARY}</text></svg>".encode(),
    ]


def bodies(picture: bytes) -> Iterator[dict[str, Any]]:
    """The same picture on each HTTP route, with talkative names beside it."""
    encoded = base64.b64encode(picture).decode()
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}
    raw = {"content": picture, "headers": {"Content-Type": f"image/{CANARY}"}}
    yield {"url": INFER, **raw}
    yield {"url": "/v1/models/realfake:predict", **raw}
    yield {"url": INFER, "json": {"inputs": [entry]}}
    yield {"url": INFER, "json": {"inputs": [entry | {"name": NAME}]}}
    yield {"url": INFER, "json": {"inputs": [entry | {"datatype": NAME}]}}
    yield {"url": INFER, "json": {"inputs": [entry | {"data": [f"{CANARY}*"]}]}}
    yield {"url": INFER, "json": {"inputs": [entry], "outputs": [{"name": NAME}]}}
    yield {"url": INFER, "json": {"inputs": [entry], "parameters": {"timeout": NAME}}}
    yield {"url": INFER, "json": {CANARY: [entry]}}
    yield {"url": INFER, "content": f'{{"inputs": {CANARY}'.encode()}
    yield {"url": "/v1/models/realfake:predict", "json": {"instances": [CANARY]}}
    yield {"url": "/v1/models/realfake:predict", "json": {"instances": [{"image": CANARY}]}}
    yield {"url": "/infer", "files": {"file": (f"{CANARY}.jpg", picture, CANARY)}}
    yield {"url": "/infer", "files": {CANARY: (f"{CANARY}.jpg", picture)}}


@pytest.mark.parametrize("number", range(len(pictures())))
def test_pictures_and_what_is_around_them(watched: ServerProcess, number: int) -> None:
    with watched.client() as client:
        for body in bodies(pictures()[number]):
            response = client.post(**body)
            head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
            check(watched, [(response.status_code, head.encode(), response.content)])


def rpc(server: ServerProcess, request: Any, metadata: list[tuple[str, str | bytes]]) -> str:
    """Everything that comes back in words."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        try:
            _, call = stub.ModelInfer.with_call(request, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            failed: Any = error
            assert failed.code().name not in ("INTERNAL", "UNKNOWN", "UNAVAILABLE"), failed
            trailing = [value for name, value in failed.trailing_metadata() if name[-4:] != "-bin"]
            return f"{failed.details()}\n{trailing}"
        return str(call.trailing_metadata())


@pytest.mark.parametrize("number", range(len(pictures())))
def test_pictures_and_names_over_grpc(watched: ServerProcess, number: int) -> None:
    key: list[tuple[str, str | bytes]] = [("x-api-key", watched.api_key)]
    for change in ({}, {"name": NAME}, {"datatype": NAME}, {"shape": [7]}):
        request = pb.ModelInferRequest(model_name="realfake", id=CANARY)
        request.inputs.add(**({"name": "image", "datatype": "BYTES", "shape": [1]} | change))
        request.inputs[0].contents.bytes_contents.append(pictures()[number])
        request.parameters[CANARY].string_param = CANARY
        clean(rpc(watched, request, key), watched.api_key, CANARY)


@FUZZ
@given(
    HOSTILE,
    st.text(max_size=100),
    st.sampled_from(["x-request-id", "x-canary", "x-canary-bin", "authorization", "x-api-key"]),
)
def test_metadata_and_model_names_over_grpc(
    watched: ServerProcess, value: bytes, text: str, name: str
) -> None:
    request = pb.ModelInferRequest(model_name=CANARY + text, model_version=CANARY + text)
    shown: str | bytes = value
    if not name.endswith("-bin"):
        # grpc itself refuses to send other characters than these.
        shown = "!" + re.sub(r"[^ -~]", "?", value.decode("latin-1")).strip()
    metadata: list[tuple[str, str | bytes]] = [(name, shown)]
    if name not in ("authorization", "x-api-key"):
        metadata.append(("x-api-key", watched.api_key))
    clean(rpc(watched, request, metadata), watched.api_key, CANARY)


def test_a_network_that_fails_tells_nothing_of_the_picture(watched: ServerProcess) -> None:
    """The stub raises with a secret of its own on a picture that is this red."""
    poison = io.BytesIO()
    Image.new("RGB", (160, 120), (251, 0, 0)).save(poison, "PNG")
    with watched.client() as client:
        response = client.post(
            INFER, content=poison.getvalue(), headers={"Content-Type": "image/png"}
        )
    assert response.status_code == 500
    assert "secret-of-the-network" not in response.text


def test_the_key_of_another_place_is_not_repeated(watched: ServerProcess) -> None:
    """Keys arrive in wrong places too: as a user name, a path, a query, a cookie."""
    key = watched.api_key
    for request in (
        {"url": f"/v2/models/{key}/infer"},
        {"url": f"{INFER}?api_key={key}"},
        {"url": INFER, "headers": {"Cookie": f"key={key}"}},
        {"url": INFER, "auth": (key, key)},
        {"url": INFER, "json": {"parameters": {"api_key": key}}},
    ):
        response = httpx.post(**{**request, "url": watched.url + str(request["url"])})  # type: ignore[arg-type]
        assert response.status_code in (400, 401, 404)
        assert key not in response.text
