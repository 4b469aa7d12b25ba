"""What `/openapi.json` says, held against what the server that says it answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator

from tests.server.process import ServerProcess

JSON = "application/json"
BINARY = "application/octet-stream"
V2 = "/v2/models/{model}/infer"
V1 = "/v1/models/{model}:predict"

OPTIONAL = {"inference-header-content-length"}
"""Headers of answers that only some have."""

Request = dict[str, Any]


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


@dataclass(frozen=True)
class Exchange:
    """A request by its documented path, made from a picture, and the status it is answered with."""

    path: str
    status: int = 200
    request: Callable[[bytes], Request] = field(default=lambda photo: {})
    method: str = "get"
    key: bool = True
    model: str = "realfake"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


def picture(photo: bytes) -> Request:
    return {"content": photo, "headers": {"Content-Type": "image/jpeg"}}


def v2_json(photo: bytes) -> Request:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(photo)]}
    outputs = [{"name": "verdict"}, {"name": "fake_prob"}]
    return {"json": {"id": "7", "inputs": [tensor], "outputs": outputs}}


def v2_numbers(photo: bytes) -> Request:
    pixels = np.zeros((1, 9, 9, 3), np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.tolist()}
    return {"json": {"inputs": [tensor]}}


def v2_binary(photo: bytes) -> Request:
    tensor = np.zeros((1, 3, 128, 128), np.float32)
    described = {
        **{"name": "tensor", "datatype": "FP32", "shape": tensor.shape},
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    head = {"inputs": [described], "parameters": {"binary_data_output": True}}
    front = json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(front))}
    return {"content": front + tensor.tobytes(), "headers": {"Content-Type": BINARY, **length}}


def v1_json(photo: bytes) -> Request:
    return {"json": {"instances": [{"image": {"b64": b64(photo)}}, {"b64": b64(photo)}]}}


def form(photo: bytes) -> Request:
    return {"files": {"file": ("a.jpg", photo, "image/jpeg")}}


def not_json(photo: bytes) -> Request:
    return {"content": b"{", "headers": {"Content-Type": JSON}}


def words(photo: bytes) -> Request:
    return {"content": photo, "headers": {"Content-Type": BINARY}}


def in_no_time(photo: bytes) -> Request:
    request = picture(photo)
    return {**request, "headers": {**request["headers"], "X-Request-Timeout-Ms": "1"}}


def post(
    path: str, request: Callable[[bytes], Request], status: int = 200, **others: Any
) -> Exchange:
    return Exchange(path, status, request, "post", **others)


EXCHANGES = [
    *map(Exchange, ("/", "/v2/health/live", "/v2/health/ready", "/v2", "/v2/models", "/v1/models")),
    *map(Exchange, ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")),
    *map(Exchange, ("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready")),
    *map(Exchange, ("/v1/models/{model}",)),
    Exchange("/v2", 401, key=False),
    Exchange("/v2/models/{model}", 404, model="none"),
    Exchange("/v1/models/{model}", 404, model="none"),
    post(V2, picture, 404, model="none"),
    *(post(V2, request) for request in (picture, v2_json, v2_numbers, v2_binary)),
    post("/v2/models/{model}/versions/{version}/infer", picture),
    post(V2, not_json, 400),
    post(V2, words, 415),
    post(V2, picture, 401, key=False),
    post(V2, in_no_time, 504),
    *(post(V1, request) for request in (picture, v1_json)),
    post(V1, not_json, 400),
    post("/infer", form),
    post("/infer", not_json, 415),
    post("/infer", form, 401, key=False),
]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    switched_on = {"REALFAKE_SERVER__DOCS_ENABLED": "true"}
    server = ServerProcess(tmp_path_factory.mktemp("documented"), switched_on)
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="module")
def document(documented: ServerProcess) -> dict[str, Any]:
    with documented.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def validate(value: object, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """As described, and nothing beside: the document itself leaves room for what may come."""
    components = json.loads(json.dumps(document["components"]))
    for model in components["schemas"].values():
        model.setdefault("additionalProperties", False)
    Draft202012Validator({**schema, "components": components}).validate(value)


def test_it_is_an_openapi_document_whose_operations_have_each_a_name(
    document: dict[str, Any],
) -> None:
    OpenAPI.model_validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = {operation["operationId"] for operation in operations}
    assert len(names) == len(operations) > 10
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_is_asked_below(document: dict[str, Any]) -> None:
    described = {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == {(exchange.method, exchange.path) for exchange in EXCHANGES}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
def test_what_is_answered_is_described(
    exchange: Exchange, documented: ServerProcess, document: dict[str, Any], photo: bytes
) -> None:
    request = exchange.request(photo)
    headers = {**(documented.headers if exchange.key else {}), **request.pop("headers", {})}
    with httpx.Client(base_url=documented.url, headers=headers, timeout=30) as client:
        answer = client.request(
            exchange.method,
            exchange.path.format(model=exchange.model, version="debug-1"),
            **request,
        )
    operation = document["paths"][exchange.path][exchange.method]
    assert answer.status_code == exchange.status
    described = operation["responses"][str(exchange.status)]
    content = described["content"][answer.headers["content-type"]]
    assert answer.headers.keys() >= {name.lower() for name in described["headers"]} - OPTIONAL
    if answer.headers["content-type"] == JSON:
        assert "inference-header-content-length" not in answer.headers
        validate(answer.json(), content["schema"], document)
    else:
        front = int(answer.headers["inference-header-content-length"])
        json_schema = described["content"][JSON]["schema"]
        validate(json.loads(answer.content[:front]), json_schema, document)
    if exchange.status == 200 and request:
        sent = answer.request.headers["content-type"].partition(";")[0]
        asked = operation["requestBody"]["content"][sent]
        if sent == JSON:
            validate(json.loads(answer.request.content), asked["schema"], document)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_the_description_is_for_who_has_a_key(path: str, documented: ServerProcess) -> None:
    assert httpx.get(f"{documented.url}{path}").status_code == 401
    assert httpx.get(f"{documented.url}{path}", headers=documented.headers).status_code == 200
