"""What the ecosystem's clients write is read here, and what is written here they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient as Triton
from tritonclient.http import InferInput as TritonInput
from tritonclient.http import InferRequestedOutput as TritonOutput

from predictor.errors import InvalidRequest
from predictor.protocol import v2
from tests.unit.protocol_requests import JPEG, MODEL, arrays, b64, encoded, result

Array = NDArray[Any]

NUMBERS: dict[str, tuple[str, Array]] = {
    "pixels": ("UINT8", np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)),
    "tensor": ("FP32", np.linspace(-3, 3, 72, dtype=np.float32).reshape(1, 3, 4, 6)),
}


def decode(body: Any, json_length: int | None) -> v2.InferCall:
    if json_length is None:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return v2.decode_json(raw, MODEL, max_pictures=4)
    return v2.decode_binary(body, json_length, MODEL, max_pictures=4)


def triton_request(
    name: str, datatype: str, array: Array, binary: bool, outputs: Any = None
) -> v2.InferCall:
    tensor = TritonInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return decode(
        *Triton.generate_request_body([tensor], outputs=outputs, request_id="t", timeout=9)
    )


def kserve_request(
    name: str, datatype: str, array: Array, binary: bool, outputs: Any = None
) -> v2.InferCall:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return decode(*InferRequest("realfake", [tensor], request_outputs=outputs).to_rest())


@pytest.mark.parametrize("request_", [triton_request, kserve_request])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_pictures(request_: Any, binary: bool, shape: tuple[int, ...]) -> None:
    values = [JPEG, b"x"] if binary else [b64(JPEG), b64(b"x")]
    array = np.array(values, dtype=np.object_).reshape(shape)
    assert encoded(request_("image", "BYTES", array, binary).pictures) == [JPEG, b"x"]


@pytest.mark.parametrize("request_", [triton_request, kserve_request])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", [*NUMBERS])
def test_numbers(request_: Any, binary: bool, name: str) -> None:
    datatype, array = NUMBERS[name]
    np.testing.assert_array_equal(arrays(request_(name, datatype, array, binary).pictures), array)


@pytest.mark.parametrize("asked", [None, True, False])
def test_tritonclient_reads_the_answer(asked: bool | None) -> None:
    names = ["verdict", "fake_prob", "probabilities"]
    outputs = None if asked is None else [TritonOutput(n, binary_data=asked) for n in names]
    picture = np.array([JPEG], dtype=np.object_)
    call = triton_request("image", "BYTES", picture, binary=True, outputs=outputs)
    assert call.timeout_s == 9e-6
    body, json_length = v2.encode(call, [result(0.7)], MODEL)
    assert (json_length is None) == (asked is False)
    read = Triton.parse_response_body(body, header_length=json_length)
    np.testing.assert_array_equal(read.as_numpy("probabilities"), [result(0.7).probabilities])
    np.testing.assert_array_equal(read.as_numpy("fake_prob"), np.array([0.7], dtype=np.float32))
    assert read.as_numpy("verdict").tolist() == ["fake" if asked is False else b"fake"]
    assert read.get_response()["id"] == "t"


@pytest.mark.parametrize("asked", [None, True, False])
def test_kserve_reads_the_answer(asked: bool | None) -> None:
    outputs = None
    if asked is not None:
        names = ["verdict", "fake_prob", "probabilities"]
        outputs = [RequestedOutput(name, {"binary_data": asked}) for name in names]
    picture = np.array([JPEG], dtype=np.object_)
    call = kserve_request("image", "BYTES", picture, binary=True, outputs=outputs)
    body, json_length = v2.encode(call, [result(0.7)], MODEL)
    assert (json_length is None) == (asked is not True)
    read = InferResponse.from_bytes(body, json_length or len(body))
    assert read.id == call.id
    probabilities = read.get_output_by_name("probabilities").as_numpy()
    np.testing.assert_array_equal(probabilities, [result(0.7).probabilities])
    assert read.get_output_by_name("verdict").data == ["fake"]


def test_answers_without_an_id_are_read_too() -> None:
    call = v2.raw_call(triton_request("image", "BYTES", np.array([JPEG], object), True).pictures[0])
    body, _ = v2.encode(call, [result(0.7)], MODEL)
    assert InferResponse.from_bytes(body, len(body)).id is None
    assert Triton.parse_response_body(body).as_numpy("fake_prob").shape == (1,)


def test_nan_from_either_client_is_refused() -> None:
    array = np.full((1, 3, 4, 6), np.nan, dtype=np.float32)
    for binary in (True, False):
        for request_ in (triton_request, kserve_request):
            with pytest.raises(InvalidRequest):
                request_("tensor", "FP32", array, binary)
