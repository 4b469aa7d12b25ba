"""Every route and method that a running server registers, with every kind of key.

Nothing is listed here but what may answer without a key: a route that appears is asked too, and
fails these tests until it wants a key.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from predictor.security.api_keys import generate
from tests.mounted_secret import MountedSecret
from tests.server import raw_grpc
from tests.server.process import ServerProcess, eventually

PUBLIC_REST = {
    "GET /",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model}/ready",
    "GET /v2/models/{model}/versions/{version}/ready",
    "GET /v1/models/{model}",
}
PUBLIC_GRPC = {
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
}
PAST = "2020-01-31T00:00:00Z"
REFUSED = ("none", "bad", "revoked", "expired")


@dataclass(frozen=True)
class Subject:
    server: ServerProcess
    keys: dict[str, str | None]
    routes: list[dict[str, Any]]
    methods: dict[str, dict[str, bool]]

    def headers(self, kind: str) -> dict[str, str]:
        key = self.keys[kind]
        return {} if key is None else {"x-api-key": key}

    def raw_headers(self, kind: str) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.headers(kind).items()]

    def call(self, method: str, kind: str, *, streams: bool = False) -> grpc.StatusCode:
        """The status of a call with an empty message; of a stream, after its first answer."""
        metadata = tuple(self.headers(kind).items())
        with grpc.insecure_channel(self.server.grpc) as channel:
            shape: Any = channel.unary_stream if streams else channel.unary_unary
            try:
                answer = shape(method, bytes, bytes)(b"", metadata=metadata, timeout=30)
                if streams:
                    next(answer)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A server with its documentation on; two of its keys worked, and were then taken away."""
    directory = tmp_path_factory.mktemp("matrix")
    good, revoked, expired = generate(), generate(), generate()
    secret = MountedSecret(
        directory / "secret", {"good": good, "revoked": revoked, "expired": expired}
    )
    described = directory / "described.json"
    server = ServerProcess(
        directory,
        {
            "REALFAKE_AUTH__KEYS_DIR": str(secret.path),
            "REALFAKE_SERVER__DOCS_ENABLED": "true",
            "STUB_LOG": str(directory / "batches.jsonl"),
            "DESCRIBED_TO": str(described),
        },
        ("-m", "tests.server.described"),
    )
    try:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as client:

            def status(key: str) -> int:
                return client.get("/v2", headers={"x-api-key": key}).status_code

            assert [status(key) for key in (good, revoked, expired)] == [200, 200, 200]
            secret.publish({"good": good, "expired": f"{expired}\nexpires: {PAST}"})
            eventually(
                lambda: {status(revoked), status(expired)} == {401} or None, 5, "keys to end"
            )
        keys = {"none": None, "bad": generate(), "revoked": revoked, "expired": expired}
        found = json.loads(described.read_text())
        yield Subject(server, {**keys, "good": good}, found["rest"], found["grpc"])
    finally:
        assert server.stop() == 0


def assert_refused(answer: tuple[int, dict[str, Any], bytes]) -> None:
    status, headers, body = answer
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert not body or json.loads(body)["code"] == "UNAUTHENTICATED"


def target(path: str) -> str:
    return path.replace("{model}", "realfake").replace("{version}", "1")


def ask(
    server: ServerProcess, method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, dict[str, Any], bytes]:
    """Ask with the very bytes given, which a friendlier client would tidy up first.

    Returns:
        Status, headers with lower-case names, body.
    """
    connection = http.client.HTTPConnection(server.http_address, timeout=30)
    with closing(connection):
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


@pytest.mark.parametrize("kind", [*REFUSED, "good"])
def test_every_rest_route_wants_a_key_but_the_listed(kind: str, subject: Subject) -> None:
    assert len(subject.routes) > len(PUBLIC_REST)
    wrong = {}
    for route in subject.routes:
        name = f"{route['method']} {route['path']}"
        for method in ["GET", "HEAD"] if route["method"] == "GET" else [route["method"]]:
            answer = ask(subject.server, method, target(route["path"]), subject.raw_headers(kind))
            refused = answer[0] == 401
            if refused is (kind == "good" or name in PUBLIC_REST):
                wrong[f"{method} {route['path']}"] = answer
            if refused:
                assert_refused(answer)
            assert answer[0] < 500
    assert not wrong, f"with {kind} key"


@pytest.mark.parametrize("kind", [*REFUSED, "good"])
def test_every_grpc_method_wants_a_key_but_the_listed(kind: str, subject: Subject) -> None:
    assert set(subject.methods) > PUBLIC_GRPC
    wrong = {}
    for method, shape in subject.methods.items():
        code = subject.call(method, kind, streams=shape["streams"])
        refused = code is grpc.StatusCode.UNAUTHENTICATED
        if refused is (kind == "good" or method in PUBLIC_GRPC):
            wrong[method] = code.name
        assert code.name not in ("UNIMPLEMENTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE"), method
    assert not wrong, f"with {kind} key"


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("GET", "/metrics"),
        ("HEAD", "/nowhere"),
        ("OPTIONS", "/infer"),
        ("DELETE", "/v2/models/realfake"),
        ("POST", "/v2/health/live"),
        ("POST", "/v2/repository/models/realfake/unload"),
        ("GET", "/v2//health/live"),
        ("GET", "/v2/health/live/../../models/realfake"),
        ("GET", "/V2"),
        ("GET", "/v2/models/realfake/ready/"),
        ("GET", "/v2/models/%2e%2e%2fhealth%2flive"),
    ],
)
def test_what_is_no_route_says_nothing_without_a_key(
    method: str, path: str, kind: str, subject: Subject
) -> None:
    assert_refused(ask(subject.server, method, path, subject.raw_headers(kind)))
    assert ask(subject.server, method, path, subject.raw_headers("good"))[0] in (404, 405)


def foreign_methods() -> list[str]:
    """What clients of the field may try: all of the protocol, reflection, channelz, admin."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    reflection = ("v1", "v1alpha")
    return [
        *(f"/inference.GRPCInferenceService/{method.name}" for method in service.methods),
        *(f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in reflection),
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.health.v1.Health/List",
        "/inference.GRPCInferenceService/",
        "/",
    ]


@pytest.mark.parametrize("kind", ["none", "good"])
def test_no_other_grpc_method_exists(kind: str, subject: Subject) -> None:
    """Model unloading and reflection, with a key or without."""
    others = [method for method in foreign_methods() if method not in subject.methods]
    assert any("RepositoryModelUnload" in method for method in others)
    for method in others:
        assert subject.call(method, kind) is grpc.StatusCode.UNIMPLEMENTED, method


def test_a_watch_tells_of_health_without_a_key(subject: Subject) -> None:
    with grpc.insecure_channel(subject.server.grpc) as channel:
        watch: Any = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def hostile_keys(good: str) -> dict[str, list[tuple[bytes, bytes]]]:
    key = good.encode()
    return {
        "empty": [(b"x-api-key", b"")],
        "spaces": [(b"x-api-key", b"   ")],
        "latin-1": [(b"x-api-key", key + b"\xe9")],
        "utf-8": [(b"x-api-key", key + "é".encode())],
        "huge": [(b"x-api-key", key * 200)],
        "twice": [(b"x-api-key", key), (b"X-API-KEY", key)],
        "first good": [(b"x-api-key", key), (b"x-api-key", b"rf_other")],
        "last good": [(b"x-api-key", b"rf_other"), (b"x-api-key", key)],
        "joined": [(b"x-api-key", key + b", " + key)],
        "two headers": [(b"x-api-key", key), (b"authorization", b"Bearer rf_other")],
        "bearer twice": [(b"authorization", b"Bearer " + key)] * 2,
        "bearer empty": [(b"authorization", b"Bearer ")],
        "bearer of bearer": [(b"authorization", b"Bearer Bearer " + key)],
        "basic": [(b"authorization", b"Basic " + key)],
        "binary metadata": [(b"x-api-key-bin", base64.b64encode(key))],
        "cookie": [(b"cookie", b"x-api-key=" + key)],
    }


HOSTILE = list(hostile_keys(""))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_key_in_doubt_is_refused_over_rest(name: str, subject: Subject) -> None:
    good = str(subject.keys["good"])
    status, _, body = ask(subject.server, "GET", "/v2", hostile_keys(good)[name])
    assert (status, json.loads(body)["code"]) in (
        (400, "INVALID_REQUEST"),
        (401, "UNAUTHENTICATED"),
    )
    assert good not in body.decode()
    assert good not in subject.server.log_text()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_key_in_doubt_is_refused_over_grpc(name: str, subject: Subject) -> None:
    good = str(subject.keys["good"])
    method = "/inference.GRPCInferenceService/ServerMetadata"
    metadata = [(name.lower(), value) for name, value in hostile_keys(good)[name]]
    answer = raw_grpc.call(subject.server.grpc, method, metadata)
    assert raw_grpc.status(answer) in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
    )
    assert good not in subject.server.log_text()


def test_a_raw_call_with_a_good_key_is_answered(subject: Subject) -> None:
    """Else the refusals above might only refuse how they are sent."""
    method = "/inference.GRPCInferenceService/ServerMetadata"
    answer = raw_grpc.call(subject.server.grpc, method, subject.raw_headers("good"))
    assert raw_grpc.status(answer) is grpc.StatusCode.OK
    assert ask(subject.server, "GET", "/v2", subject.raw_headers("good"))[0] == 200
