"""V2 JSON: what is accepted, and how everything else is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from predictor.errors import InvalidRequest
from predictor.inference.pictures import Pixels, Tensor
from predictor.protocol import v2
from tests.unit.protocol_requests import (
    JPEG,
    MAX_PICTURES,
    MODEL,
    arrays,
    b64,
    decode,
    encoded,
    image,
    pixels,
    tensor,
)

HUGE = 2**31 - 1


def test_pictures_are_base64_strings() -> None:
    call = decode({"id": "a-1", "inputs": [image(shape=[2], data=[b64(JPEG), b64(b"x")])]})
    assert encoded(call.pictures) == [JPEG, b"x"]
    assert call.id == "a-1"


@pytest.mark.parametrize("data", [[b64(JPEG), b64(b"x")], [[b64(JPEG)], [b64(b"x")]]])
def test_pictures_may_have_a_second_dimension_of_one(data: list[Any]) -> None:
    assert encoded(decode({"inputs": [image(shape=[2, 1], data=data)]}).pictures) == [JPEG, b"x"]


@pytest.mark.parametrize("length", [0, 1, 2, 2**20 // 4 * 3 - 1, 2**20 // 4 * 3, 2_000_000])
def test_base64_of_any_length(length: int) -> None:
    data = np.random.default_rng(0).bytes(length) + b"."
    assert encoded(decode({"inputs": [image(data=[b64(data)])]}).pictures) == [data]


@pytest.mark.parametrize("nested", [True, False])
def test_pixels_flat_or_nested(nested: bool) -> None:
    array = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    data = array.tolist() if nested else array.ravel().tolist()
    call = decode({"inputs": [pixels(shape=[2, 3, 4, 3], data=data)]})
    assert all(isinstance(picture, Pixels) for picture in call.pictures)
    np.testing.assert_array_equal(arrays(call.pictures), array)


@pytest.mark.parametrize("nested", [True, False])
def test_tensors_flat_or_nested(nested: bool) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    data = array.tolist() if nested else array.ravel().tolist()
    call = decode({"inputs": [tensor(shape=[2, 3, 4, 6], data=data)]})
    assert all(isinstance(picture, Tensor) for picture in call.pictures)
    decoded = np.array(arrays(call.pictures))
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, array)


def test_whole_numbers_are_fine_in_a_float_tensor() -> None:
    call = decode({"inputs": [tensor(data=[1] * 36 + [2.5] * 36)]})
    assert arrays(call.pictures)[0].sum() == 36 + 90


def test_what_is_null_or_unknown_counts_as_absent() -> None:
    call = decode(
        {
            "id": None,
            "model_name": "realfake",
            "parameters": {"priority": 3, "timeout": None, "sequence_id": 0, "mine": [1]},
            "inputs": [image() | {"parameters": None, "note": "x"}],
            "outputs": None,
        }
    )
    assert encoded(call.pictures) == [JPEG]
    assert call.id == ""
    assert call.timeout_s is None


@pytest.mark.parametrize(("microseconds", "seconds"), [(0, None), (1, 1e-6), (2_500_000, 2.5)])
def test_timeout_is_in_microseconds(microseconds: int, seconds: float | None) -> None:
    body = {"inputs": [image()], "parameters": {"timeout": microseconds}}
    assert decode(body).timeout_s == seconds


def test_everything_is_answered_when_nothing_is_asked_for() -> None:
    nothing: tuple[Any, ...] = ([], None)
    for outputs in nothing:
        call = decode({"inputs": [image()], "outputs": outputs})
        assert [output.name for output in call.outputs] == ["probabilities", "fake_prob", "verdict"]
        assert not any(output.binary for output in call.outputs)


def test_outputs_keep_their_order_and_say_binary_for_themselves() -> None:
    call = decode(
        {
            "inputs": [image()],
            "parameters": {"binary_data_output": True},
            "outputs": [
                {"name": "verdict", "parameters": {"binary_data": False}},
                {"name": "probabilities"},
            ],
        }
    )
    assert [(output.name, output.binary) for output in call.outputs] == [
        ("verdict", False),
        ("probabilities", True),
    ]


MALFORMED: list[tuple[str, Any, str]] = [
    ("array body", [], "the body is a list"),
    ("scalar body", 3, "the body is an integer"),
    ("null body", None, "the body is null"),
    ("no inputs", {}, "inputs: has 0"),
    ("null inputs", {"inputs": None}, "inputs: has 0"),
    ("inputs not a list", {"inputs": {}}, "inputs: is an object"),
    ("empty inputs", {"inputs": []}, "inputs: has 0"),
    ("the same input twice", {"inputs": [image(), image()]}, "inputs: has 2"),
    ("two inputs", {"inputs": [image(), pixels()]}, "inputs: has 2"),
    ("input not an object", {"inputs": ["image"]}, "inputs[0]: is a string"),
    ("unknown input", {"inputs": [image(name="picture")]}, "image, pixels, tensor"),
    ("no name", {"inputs": [image(name=None)]}, "inputs[0].name: is missing"),
    ("name not a string", {"inputs": [image(name=1)]}, "inputs[0].name: is an integer"),
    ("no datatype", {"inputs": [image(datatype=None)]}, "inputs[0].datatype: is missing"),
    ("datatype not a string", {"inputs": [image(datatype=[])]}, "inputs[0].datatype: is a list"),
    ("wrong datatype", {"inputs": [image(datatype="UINT8")]}, "must be BYTES"),
    ("lower-case datatype", {"inputs": [image(datatype="bytes")]}, "must be BYTES"),
    ("no shape", {"inputs": [image(shape=None)]}, "inputs[0].shape: is missing"),
    ("shape not a list", {"inputs": [image(shape=1)]}, "inputs[0].shape: is an integer"),
    ("empty shape", {"inputs": [image(shape=[])]}, "0 dimensions"),
    ("too many dimensions", {"inputs": [image(shape=[1, 1, 1])]}, "3 dimensions"),
    ("two columns of pictures", {"inputs": [image(shape=[1, 2])]}, "inputs[0].shape[1]"),
    ("no pictures", {"inputs": [image(shape=[0], data=[])]}, "inputs[0].shape[0]: is 0"),
    ("negative size", {"inputs": [pixels(shape=[-1, 2, 2, 3])]}, "inputs[0].shape[0]: is -1"),
    ("float size", {"inputs": [image(shape=[1.0])]}, "inputs[0].shape[0]: is a floating"),
    ("bool size", {"inputs": [image(shape=[True])]}, "inputs[0].shape[0]: is a boolean"),
    ("string size", {"inputs": [image(shape=["1"])]}, "inputs[0].shape[0]: is a string"),
    ("null size", {"inputs": [image(shape=[None])]}, "inputs[0].shape[0]: is null"),
    ("size beyond 31 bits", {"inputs": [pixels(shape=[1, 2**31, 1, 3])]}, "inputs[0].shape[1]"),
    ("size beyond 64 bits", {"inputs": [pixels(shape=[1, 2**70, 1, 3])]}, "inputs[0].shape[1]"),
    ("huge shape", {"inputs": [pixels(shape=[1, HUGE, HUGE, 3])]}, "has 12 values"),
    ("four channels", {"inputs": [pixels(shape=[1, 2, 2, 4])]}, "inputs[0].shape[3]: is 4"),
    ("other input size", {"inputs": [tensor(shape=[1, 3, 4, 4])]}, "[N, 3, 4, 6]"),
    (
        "too many pictures",
        {"inputs": [image(shape=[5], data=[b64(JPEG)] * 5)]},
        "limits.max_pictures",
    ),
    ("no data", {"inputs": [image(data=None)]}, "inputs[0].data: is missing"),
    ("data not a list", {"inputs": [image(data=b64(JPEG))]}, "inputs[0].data: is a string"),
    ("too little data", {"inputs": [pixels(data=[0] * 11)]}, "has 11 values"),
    ("too much data", {"inputs": [pixels(data=[0] * 13)]}, "has 13 values"),
    ("ragged", {"inputs": [pixels(data=[[[[0, 0, 0], [0, 0]], [[0] * 3] * 2]])]}, "nested lists"),
    ("nested otherwise", {"inputs": [pixels(data=[[0] * 12])]}, "nested lists"),
    ("mixed nesting", {"inputs": [pixels(data=[[[[0] * 3] * 2, 7]])]}, "nested lists"),
    (
        "nested too deep",
        {"inputs": [pixels(data=[[[[[0]] * 3] * 2] * 2])]},
        "position 0 is a list",
    ),
    ("a list for a picture", {"inputs": [image(data=[["a"]])]}, "inputs[0].data[0]: is a list"),
    ("above a byte", {"inputs": [pixels(data=[0] * 11 + [256])]}, "position 11 is 256"),
    ("below a byte", {"inputs": [pixels(data=[-1] + [0] * 11)]}, "position 0 is -1"),
    ("far above a byte", {"inputs": [pixels(data=[2**63] + [0] * 11)]}, "position 0 is"),
    ("float in UINT8", {"inputs": [pixels(data=[1.0] + [0] * 11)]}, "position 0 is a floating"),
    ("bool in UINT8", {"inputs": [pixels(data=[True] + [0] * 11)]}, "position 0 is a boolean"),
    ("string in FP32", {"inputs": [tensor(data=["1"] * 72)]}, "position 0 is a string"),
    ("bool in FP32", {"inputs": [tensor(data=[0.5] * 71 + [True])]}, "position 71 is a boolean"),
    ("null in FP32", {"inputs": [tensor(data=[None] * 72)]}, "position 0 is null"),
    ("beyond FP32", {"inputs": [tensor(data=[0.0] * 71 + [1e39])]}, "position 71"),
    ("number for a picture", {"inputs": [image(data=[7])]}, "inputs[0].data[0]: is an integer"),
    ("not base64", {"inputs": [image(data=["*" * 8])]}, "is not base64"),
    ("padding inside", {"inputs": [image(data=["QQ==QQ=="])]}, "is not base64"),
    ("not ASCII", {"inputs": [image(data=["Ä" * 8])]}, "is not base64"),
    ("cut base64", {"inputs": [image(data=["QUJDR"])]}, "padding"),
    ("wrapped base64", {"inputs": [image(data=["QUJD\nQUJD"])]}, "base64 -w0"),
    ("URL-safe base64", {"inputs": [image(data=["_-__"])]}, "standard alphabet"),
    ("data URL", {"inputs": [image(data=["data:image/png;base64,QQ=="])]}, "data: URL"),
    ("URL", {"inputs": [image(data=["https://example.org/a.jpg"])]}, "not fetched"),
    (
        "padding between chunks",
        {"inputs": [image(data=["A" * (2**20 - 4) + "QQ==" + "QUJD"])]},
        "is not base64",
    ),
    ("long id", {"id": "x" * 129, "inputs": [image()]}, "id: has 129"),
    ("id not a string", {"id": 7, "inputs": [image()]}, "id: is an integer"),
    ("unknown output", {"inputs": [image()], "outputs": [{"name": "logits"}]}, "fake_prob"),
    (
        "output twice",
        {"inputs": [image()], "outputs": [{"name": "verdict"}] * 2},
        "outputs[1].name: verdict is asked for twice",
    ),
    ("output without a name", {"inputs": [image()], "outputs": [{}]}, "outputs[0].name: is null"),
    ("output not an object", {"inputs": [image()], "outputs": ["verdict"]}, "outputs[0]: is"),
    ("outputs not a list", {"inputs": [image()], "outputs": {}}, "outputs: is an object"),
    ("parameters not an object", {"inputs": [image()], "parameters": []}, "parameters: is"),
    (
        "input parameters not an object",
        {"inputs": [image(parameters="x")]},
        "inputs[0].parameters: is a string",
    ),
    (
        "binary size without its header",
        {"inputs": [image(data=None, parameters={"binary_data_size": 4})]},
        "Inference-Header-Content-Length",
    ),
    (
        "data in two places",
        {"inputs": [image(parameters={"binary_data_size": 4})]},
        "inputs[0]: has data and binary_data_size",
    ),
    (
        "shared memory in",
        {"inputs": [image(data=None, parameters={"shared_memory_region": "r"})]},
        "shared memory",
    ),
    (
        "shared memory out",
        {
            "inputs": [image()],
            "outputs": [{"name": "verdict", "parameters": {"shared_memory_region": "r"}}],
        },
        "outputs[0].parameters.shared_memory_region",
    ),
    (
        "classification",
        {
            "inputs": [image()],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
        },
        "outputs[0].parameters.classification",
    ),
    ("sequence", {"inputs": [image()], "parameters": {"sequence_id": 4}}, "sequence_id"),
    ("negative timeout", {"inputs": [image()], "parameters": {"timeout": -1}}, "microseconds"),
    ("bool timeout", {"inputs": [image()], "parameters": {"timeout": True}}, "microseconds"),
    ("text timeout", {"inputs": [image()], "parameters": {"timeout": "9"}}, "microseconds"),
    (
        "binary output not a bool",
        {"inputs": [image()], "parameters": {"binary_data_output": 1}},
        "must be true or false",
    ),
    (
        "binary data not a bool",
        {
            "inputs": [image()],
            "outputs": [{"name": "verdict", "parameters": {"binary_data": "yes"}}],
        },
        "outputs[0].parameters.binary_data",
    ),
]


@pytest.mark.parametrize(
    ("body", "named"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_requests_are_refused_by_place(body: Any, named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body)
    assert named in refused.value.message
    assert len(refused.value.message) < 400


VALID = json.dumps({"inputs": [tensor()]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"inputs": "\xff"}',
        VALID.replace(b"0.5]", b"NaN]"),
        VALID.replace(b"0.5]", b"-Infinity]"),
        VALID.replace(b"0.5]", b"1e999]"),
        VALID + b"{}",
        b"\xef\xbb\xbf" + VALID,
        b'{"id": "\\ud800"}',
        b"[" * 100_000,
        b'{"inputs":' * 5000 + b"1" + b"}" * 5000,
    ],
    ids=range(12),
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="body is"):
        decode(body)


def test_a_name_that_repeats_counts_as_sent_last() -> None:
    call = decode(b'{"inputs": [], "inputs": ' + json.dumps([image()]).encode() + b"}")
    assert encoded(call.pictures) == [JPEG]


@pytest.mark.parametrize("text", ["\r\nforged: line", "\x1b[2J", "\u202etxt", "é" * 500, "'" * 500])
def test_what_a_client_sent_is_echoed_short_and_escaped(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode({"inputs": [image(name=text)]})
    message = refused.value.message
    assert message.isprintable()
    assert len(message) < 200


def test_pictures_are_not_echoed() -> None:
    secret = b64(b"secret picture bytes") + "*"
    for entry in (image(data=[secret]), pixels(data=[secret] * 12), image(datatype=secret * 50)):
        with pytest.raises(InvalidRequest) as refused:
            decode({"inputs": [entry]})
        assert secret * 3 not in refused.value.message
        assert len(refused.value.message) < 250


def test_a_raw_body_is_a_call_for_everything_as_json() -> None:
    picture = decode({"inputs": [image()]}).pictures[0]
    assert v2.raw_call(picture) == decode({"inputs": [image()]})


def test_memoryviews_are_read_too() -> None:
    view = memoryview(json.dumps({"inputs": [image()]}).encode())
    assert v2.decode_json(view, MODEL, max_pictures=MAX_PICTURES).pictures
