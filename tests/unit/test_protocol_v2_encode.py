"""V2 answers: what clients read back is what the classifier said."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from predictor.errors import InternalError
from predictor.inference.pictures import Classification
from predictor.protocol import v2
from predictor.protocol.schemas import InferResponseBody
from tests.unit.protocol_requests import JPEG, MODEL, b64, decode, image, result


def call_for(count: int = 1, **fields: Any) -> v2.InferCall:
    return decode({"inputs": [image(shape=[count], data=[b64(JPEG)] * count)]} | fields)


def test_json_answer() -> None:
    body, json_length = v2.encode(call_for(2, id="q"), [result(0.7), result(0.2)], MODEL)
    assert json_length is None
    answer = json.loads(body)
    assert {**answer, "outputs": None} == {
        "model_name": "realfake",
        "model_version": "7",
        "id": "q",
        "outputs": None,
    }
    probabilities, fake_prob, verdict = answer["outputs"]
    assert probabilities == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 3],
        "data": pytest.approx([0.6, 0.3, 0.1, 0.1, 0.8, 0.1]),
    }
    assert fake_prob["shape"] == [2]
    assert fake_prob["data"] == [0.7, 0.2]
    assert verdict == {
        "name": "verdict",
        "datatype": "BYTES",
        "shape": [2],
        "data": ["fake", "fake"],
    }
    InferResponseBody.model_validate_json(body)


def test_an_id_is_answered_only_where_one_was_sent() -> None:
    body, _ = v2.encode(call_for(), [result()], MODEL)
    assert "id" not in json.loads(body)


def test_floats_in_json_are_the_same_float32_when_read_back() -> None:
    values = np.random.default_rng(0).random((4000, 3), dtype=np.float32) ** 4
    results = [Classification(row, float(row[0]), "uncertain") for row in values]
    call = v2.InferCall("", decode({"inputs": [image()]}).pictures * 4000, call_for().outputs, None)
    body, _ = v2.encode(call, results, MODEL)
    outputs = json.loads(body)["outputs"]
    read = np.array(outputs[0]["data"], dtype=np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(np.array(outputs[1]["data"], dtype=np.float32), values[:, 0])


def test_binary_answer_follows_the_json_in_the_order_asked_for() -> None:
    call = call_for(
        2,
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "verdict"},
            {"name": "fake_prob", "parameters": {"binary_data": False}},
            {"name": "probabilities"},
        ],
    )
    results = [result(0.7), result(0.2)]
    body, json_length = v2.encode(call, results, MODEL)
    assert json_length is not None
    verdict, fake_prob, probabilities = json.loads(body[:json_length])["outputs"]
    assert verdict["parameters"] == {"binary_data_size": 16}
    assert "data" not in verdict
    assert fake_prob["data"] == [0.7, 0.2]
    assert probabilities["parameters"] == {"binary_data_size": 24}
    tail = body[json_length:]
    assert tail[:16] == (struct.pack("<I", 4) + b"fake") * 2
    np.testing.assert_array_equal(
        np.frombuffer(tail[16:], "<f4"), np.concatenate([r.probabilities for r in results])
    )


def test_output_tensors_are_typed_or_raw() -> None:
    tensors = v2.output_tensors(call_for(2), [result(0.7), result(0.2)], MODEL)
    probabilities, fake_prob, verdict = tensors
    assert probabilities.shape == (2, 3)
    assert len(probabilities.values()) == 6
    assert np.array(fake_prob.values(), dtype="<f4").tobytes() == fake_prob.raw()
    assert verdict.values() == [b"fake", b"fake"]
    assert verdict.raw() == (struct.pack("<I", 4) + b"fake") * 2


@pytest.mark.parametrize(
    "broken",
    [
        Classification(np.array([np.nan, 0, 1], dtype=np.float32), 0.5, "fake"),
        Classification(np.array([0, 0, 1], dtype=np.float32), float("nan"), "fake"),
        Classification(np.array([0, 1], dtype=np.float32), 0.5, "fake"),
    ],
)
def test_numbers_that_are_none_are_never_answered(broken: Classification) -> None:
    with pytest.raises(InternalError):
        v2.encode(call_for(), [broken], MODEL)


def test_an_answer_has_one_result_per_picture() -> None:
    with pytest.raises(InternalError):
        v2.encode(call_for(2), [result()], MODEL)


def test_metadata_says_what_goes_in_and_out() -> None:
    described = v2.metadata(MODEL)
    assert described["name"] == "realfake"
    assert described["versions"] == ["7"]
    assert {t["name"]: (t["datatype"], t["shape"]) for t in described["inputs"]} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, -1, -1, 3]),
        "tensor": ("FP32", [-1, 3, 4, 6]),
    }
    assert {t["name"]: (t["datatype"], t["shape"]) for t in described["outputs"]} == {
        "probabilities": ("FP32", [-1, 3]),
        "fake_prob": ("FP32", [-1]),
        "verdict": ("BYTES", [-1]),
    }
    assert described["properties"]["label_names"] == ["generated", "photo", "edited"]
    assert "exactly one" in described["properties"]["inputs"]


def test_server_metadata_claims_only_what_works() -> None:
    described = v2.server_metadata()
    assert described["name"] == "realfake"
    assert described["version"]
    assert described["extensions"] == ["binary_tensor_data"]
