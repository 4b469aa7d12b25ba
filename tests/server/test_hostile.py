"""Hostile pictures and malformed requests against the real process: typed refusals only."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.pictures import HOSTILE, Hostile, jpeg
from tests.server.process import ServerProcess

INFER = "/v2/models/realfake/infer"
PREDICT = "/v1/models/realfake:predict"
CLIENT_ERRORS = {400, 404, 405, 408, 413, 415}


def refusal(response: httpx.Response) -> str:
    """The code of a typed refusal; anything else fails."""
    assert response.status_code in CLIENT_ERRORS, f"{response.status_code} {response.text[:200]}"
    body = response.json()
    assert set(body) - {"detail"} == {"error", "code", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert len(body["error"]) < 400
    return str(body["code"])


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_pictures_are_refused_on_both_protocols(
    hostile: Hostile, server: ServerProcess
) -> None:
    data = hostile.make()
    with server.client() as client:
        response = client.post(INFER, content=data, headers={"Content-Type": "image/jpeg"})
    if hostile.code == "OK":
        assert response.status_code == 200, response.text
    else:
        assert refusal(response) == hostile.code
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        data
    )
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        metadata = [("x-api-key", server.api_key)]
        if hostile.code == "OK":
            stub.ModelInfer(request, metadata=metadata, timeout=60)
            return
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, metadata=metadata, timeout=60)
    error: Any = refused.value
    assert error.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert error.details().startswith(f"{hostile.code}: ")
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == hostile.code


async def test_health_answers_while_hostile_pictures_are_refused(server: ServerProcess) -> None:
    bodies = [hostile.make() for hostile in HOSTILE]
    async with server.async_client() as client, server.async_client() as probe:
        flood = asyncio.gather(
            *(
                client.post(INFER, content=body, headers={"Content-Type": "image/jpeg"})
                for body in bodies * 12
            )
        )
        answers = 0
        while not flood.done():
            assert (await probe.get("/v2/health/live")).status_code == 200
            answers += 1
        responses = await flood
    assert all(response.status_code < 500 for response in responses)
    # A loop that decodes would answer once before the flood and once behind it.
    assert answers > 5, "health answers waited for the pictures"


def tensor(**change: Any) -> dict[str, Any]:
    return {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": [1, 8, 8, 3],
        "data": [0] * 192,
    } | change


MALFORMED_JSON: dict[str, Any] = {
    "array body": [],
    "no inputs": {},
    "empty inputs": {"inputs": []},
    "two inputs": {"inputs": [tensor(), tensor()]},
    "unknown input": {"inputs": [tensor(name="picture")]},
    "unknown output": {"inputs": [tensor()], "outputs": [{"name": "logits"}]},
    "no shape": {"inputs": [{"name": "pixels", "datatype": "UINT8", "data": []}]},
    "negative shape": {"inputs": [tensor(shape=[-1, 8, 8, 3])]},
    "string shape": {"inputs": [tensor(shape=["1", 8, 8, 3])]},
    "huge shape": {"inputs": [tensor(shape=[1, 2**62, 2**62, 3])]},
    "short data": {"inputs": [tensor(data=[0] * 191)]},
    "ragged data": {"inputs": [tensor(data=[[0], [0, 1]])]},
    "out of range": {"inputs": [tensor(data=[256] * 192)]},
    "strings as numbers": {"inputs": [tensor(data=["0"] * 192)]},
    "wrong datatype": {"inputs": [tensor(datatype="FP64")]},
    "not base64": {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["*"]}]},
    "long id": {"id": "x" * 1_000_000, "inputs": [tensor()]},
    "numeric id": {"id": 7, "inputs": [tensor()]},
    "binary size without header": {
        "inputs": [tensor() | {"parameters": {"binary_data_size": 10**12}}]
    },
}


@pytest.mark.parametrize("name", [*MALFORMED_JSON])
def test_malformed_json_is_an_invalid_request(name: str, server: ServerProcess) -> None:
    with server.client() as client:
        response = client.post(INFER, json=MALFORMED_JSON[name])
    assert refusal(response) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"inputs":NaN}', b'{"inputs":[1e999]}', b"[" * 100_000, b"null"],
)
@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_what_is_not_json_is_an_invalid_request(
    path: str, body: bytes, server: ServerProcess
) -> None:
    with server.client() as client:
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refusal(response) == "INVALID_REQUEST"


@pytest.mark.parametrize("length", ["-1", "1e3", "", "99999999999999999999", "٣", "0x10", "3"])
def test_a_false_binary_header_is_an_invalid_request(length: str, server: ServerProcess) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    with server.client() as client:
        response = client.post(
            INFER,
            content=body,
            headers=[(b"Inference-Header-Content-Length", length.encode())],
        )
    assert refusal(response) == "INVALID_REQUEST"


@pytest.mark.parametrize("size", [-1, 0, 10**12, "8", 1.5, True, None])
def test_a_false_binary_size_is_an_invalid_request(size: Any, server: ServerProcess) -> None:
    entry: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
    entry["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [entry]}).encode()
    with server.client() as client:
        response = client.post(
            INFER,
            content=head + b"\x04\x00\x00\x00abcd",
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
    assert refusal(response) == "INVALID_REQUEST"


def test_too_many_json_values_are_refused_unparsed(server: ServerProcess) -> None:
    with server.client() as client:
        response = client.post(INFER, content=b'{"inputs":[' + b"[]," * 5_000_000 + b"0]}")
    assert refusal(response) == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("body", "headers", "hint"),
    [
        (jpeg(), {}, "Content-Type: image/jpeg"),
        (base64.b64encode(jpeg()), {"Content-Type": "image/jpeg"}, "base64"),
        (b"{}", {"Content-Encoding": "gzip"}, "Content-Encoding"),
        (b'{"inputs":[]}', {"Inference-Header-Content-Length": "5"}, "Inference-Header"),
    ],
    ids=["a picture called nothing", "base64 called a picture", "not compressed", "cut"],
)
def test_what_is_easily_forgotten_is_named(
    body: bytes, headers: dict[str, str], hint: str, server: ServerProcess
) -> None:
    with server.client() as client:
        response = client.post(INFER, content=body, headers=headers)
    refusal(response)
    assert hint in response.json()["error"]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"output": "classification"}, "outputs[0].parameters.classification"),
        ({"output": "shared_memory_region"}, "outputs[0].parameters.shared_memory_region"),
        ({"contents": "int_contents"}, "uint_contents"),
    ],
    ids=["classes", "shared memory", "a field of another datatype"],
)
def test_what_grpc_clients_ask_for_in_vain_is_refused(
    change: dict[str, str], hint: str, server: ServerProcess
) -> None:
    request = pb.ModelInferRequest(model_name="realfake")
    pixels = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 8, 8, 3])
    getattr(pixels.contents, change.get("contents", "uint_contents")).extend([0] * 192)
    output = request.outputs.add(name="probabilities")
    if "output" in change:
        output.parameters[change["output"]].string_param = "2"
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, metadata=[("x-api-key", server.api_key)], timeout=60)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert hint in error.details()


def test_json_before_tensors_is_counted_as_well(server: ServerProcess) -> None:
    body = b'{"inputs":[' + b"[]," * 1_000_000 + b"0]}"
    with server.client() as client:
        response = client.post(
            INFER, content=body, headers={"Inference-Header-Content-Length": str(len(body))}
        )
    assert refusal(response) == "PAYLOAD_TOO_LARGE"


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536 + 1):
        yield b"\0" * 65536


@pytest.mark.parametrize("chunked", [True, False])
def test_an_oversized_body_is_refused_and_the_caller_learns_why(
    chunked: bool, server: ServerProcess
) -> None:
    size = 40 * 1024 * 1024
    content: Any = _chunks(size) if chunked else b"\0" * size
    with server.client() as client:
        response = client.post(INFER, content=content, headers={"Content-Type": "image/jpeg"})
    assert refusal(response) == "PAYLOAD_TOO_LARGE"


def test_a_gzip_bomb_is_refused(server: ServerProcess) -> None:
    bomb = gzip.compress(b" " * (512 * 1024 * 1024), 1)
    assert len(bomb) < 8 * 1024 * 1024
    with server.client() as client:
        response = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert refusal(response) == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("gzip", b"not gzip", "INVALID_REQUEST"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], "INVALID_REQUEST"),
        ("br", b"{}", "UNSUPPORTED_MEDIA"),
        ("gzip, gzip", gzip.compress(b"{}", mtime=0), "UNSUPPORTED_MEDIA"),
    ],
)
def test_bodies_that_do_not_match_their_encoding(
    encoding: str, body: bytes, code: str, server: ServerProcess
) -> None:
    with server.client() as client:
        response = client.post(INFER, content=body, headers={"Content-Encoding": encoding})
    assert refusal(response) == code


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"picture": ("a.jpg", b"x")}, None),
        ([("file", ("a.jpg", b"x")), ("file", ("b.jpg", b"y"))], None),
        (None, {"file": "text"}),
    ],
)
def test_wrong_forms_at_infer(files: Any, data: Any, server: ServerProcess) -> None:
    with server.client() as client:
        response = client.post("/infer", files=files, data=data)
    assert refusal(response) in ("INVALID_REQUEST", "UNSUPPORTED_MEDIA", "INVALID_IMAGE")
    assert response.json()["detail"] == response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", INFER, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/v2", "METHOD_NOT_ALLOWED"),
        ("GET", "/nothing", "NOT_FOUND"),
        ("POST", "/v2/models/other/infer", "NOT_FOUND"),
        ("POST", "/v2/models/a%0Aforged/infer", "NOT_FOUND"),
        ("POST", "/v1/models/other:predict", "NOT_FOUND"),
    ],
)
def test_wrong_places(method: str, path: str, code: str, server: ServerProcess) -> None:
    with server.client() as client:
        response = client.request(method, path, json={} if method == "POST" else None)
    assert refusal(response) == code
    assert "forged" not in response.text


def test_http_that_is_not_http_is_dropped(server: ServerProcess) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 10 + b"\0"):
        with socket.create_connection(("127.0.0.1", server.listening["http_port"]), 10) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(4096)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def grpc_lies() -> dict[str, pb.ModelInferRequest]:
    def request(**change: Any) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(model_name="realfake")
        fields = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3]} | change
        message.inputs.add(**fields)
        message.raw_input_contents.append(b"\0" * 192)
        return message

    both = request()
    both.inputs[0].contents.uint_contents.extend([0] * 192)
    extra = request()
    extra.raw_input_contents.append(b"")
    wrong_contents = pb.ModelInferRequest(model_name="realfake")
    wrong_contents.inputs.add(
        name="pixels", datatype="UINT8", shape=[1, 8, 8, 3]
    ).contents.fp32_contents.extend([0.0] * 192)
    return {
        "shape lies": request(shape=[1, 8, 9, 3]),
        "negative shape": request(shape=[-1, 8, 8, 3]),
        "huge shape": request(shape=[2**62, 2**62, 8, 3]),
        "unknown datatype": request(datatype="FP128"),
        "bad length prefix": request(name="image", datatype="BYTES", shape=[1]),
        "contents and raw": both,
        "more raw than inputs": extra,
        "wrong contents field": wrong_contents,
        "no inputs": pb.ModelInferRequest(model_name="realfake"),
    }


@pytest.mark.parametrize("name", [*grpc_lies()])
def test_malformed_grpc_is_an_invalid_argument(name: str, server: ServerProcess) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(grpc_lies()[name], metadata=[("x-api-key", server.api_key)], timeout=30)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("INVALID_REQUEST: ")


def test_unknown_models_over_grpc(server: ServerProcess) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        for name, version in (("other", ""), ("realfake", "no-version")):
            with pytest.raises(triton_grpc.InferenceServerException) as refused:
                client.get_model_metadata(name, version, headers={"x-api-key": server.api_key})
            assert "NOT_FOUND" in str(refused.value.status())


def test_base64_with_a_data_url_says_what_to_do(server: ServerProcess) -> None:
    data = "data:image/jpeg;base64," + base64.b64encode(b"x").decode()
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [data]}
    with server.client() as client:
        response = client.post(INFER, json={"inputs": [entry]})
    assert refusal(response) == "INVALID_REQUEST"
    assert "data:" in response.json()["error"]
