"""One picture as each server wants it sent, and the probability of `fake` in what comes back."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping

from hack.load.http_caller import post

_JSON = {"Content-Type": "application/json"}
_BOUNDARY = "picture-ends-here"


def as_is(path: str, picture: bytes, headers: Mapping[str, str]) -> bytes:
    return post(path, picture, {"Content-Type": "image/jpeg", **headers})


def multipart(path: str, field: str, picture: bytes) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name={field}; filename=picture.jpg\r\n"
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return post(path, body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})


def litserve(path: str, picture: bytes) -> bytes:
    return post(path, json.dumps({"image_data": _base64(picture)}).encode(), _JSON)


def v1(path: str, picture: bytes) -> bytes:
    body = {"instances": [{"image": {"b64": _base64(picture)}}]}
    return post(path, json.dumps(body).encode(), _JSON)


def v2(path: str, picture: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    tensor = {
        **{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_base64(picture)]},
        "parameters": {"content_type": "base64"},
    }
    return post(path, json.dumps({"inputs": [tensor]}).encode(), {**_JSON, **(headers or {})})


def in_object(body: bytes) -> float:
    return float(json.loads(body)["fake"])


def in_list(body: bytes) -> float:
    return float(json.loads(body)[0]["fake"])


def in_predictions(body: bytes) -> float:
    return float(json.loads(body)["predictions"][0]["fake"])


def in_v2(body: bytes) -> float:
    """Fake is the first label of every network here."""
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return float(outputs["probabilities"]["data"][0])


def in_grpc(body: bytes) -> float:
    from tritonclient.grpc import service_pb2 as pb  # not beside kserve's own protobuf classes

    answer = pb.ModelInferResponse.FromString(body)
    at = [output.name for output in answer.outputs].index("probabilities")
    if answer.raw_output_contents:
        return float(struct.unpack_from("<f", answer.raw_output_contents[at])[0])
    contents = answer.outputs[at].contents
    return float((contents.fp32_contents or contents.fp64_contents)[0])


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
