"""V2 binary framing and raw tensors, as HTTP's binary bodies and gRPC share them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from predictor.errors import InvalidRequest
from predictor.inference.pictures import EncodedImage
from predictor.protocol import v2
from predictor.protocol.messages import InferCall, InputTensor, RequestedOutput
from tests.unit.protocol_requests import (
    JPEG,
    MAX_PICTURES,
    MODEL,
    arrays,
    binary_entry,
    decode,
    decode_binary,
    elements,
    encoded,
    image,
    pixels,
    tensor,
)


def test_pictures_follow_the_json_behind_their_lengths() -> None:
    tail = elements(JPEG, b"x")
    call = decode_binary({"inputs": [binary_entry(image(shape=[2]), tail)]}, tail)
    assert encoded(call.pictures) == [JPEG, b"x"]


def test_pictures_are_views_of_the_body() -> None:
    tail = elements(JPEG)
    (picture,) = decode_binary({"inputs": [binary_entry(image(), tail)]}, tail).pictures
    assert isinstance(picture, EncodedImage)
    assert isinstance(picture.data, memoryview)
    assert picture.data.obj is not None


@pytest.mark.parametrize("padding", range(4))
def test_numbers_may_begin_anywhere(padding: int) -> None:
    """The JSON's length decides where the floats begin, and it is no multiple of four."""
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype("<f4")
    head = {"id": "x" * padding, "inputs": [binary_entry(tensor(shape=[2, 3, 4, 6]), bytes(576))]}
    decoded = arrays(decode_binary(head, array.tobytes()).pictures)
    np.testing.assert_array_equal(decoded, array)
    assert all(item.flags.aligned for item in decoded)


def test_pixels_are_read_as_they_are() -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    head = {"inputs": [binary_entry(pixels(shape=[3, 5, 7, 3]), array.tobytes())]}
    np.testing.assert_array_equal(arrays(decode_binary(head, array.tobytes()).pictures), array)


def test_json_data_may_come_with_the_header() -> None:
    assert encoded(decode_binary({"inputs": [image()]}, b"").pictures) == [JPEG]


@pytest.mark.parametrize(
    "length",
    ["", "-1", "+1", " 1", "1 ", "01", "1.0", "1e3", "0x10", "1_0", "٣", "9" * 5000, -1, 10**30],
)
def test_a_json_length_that_is_no_length_is_refused(length: str | int) -> None:
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length") as refused:
        decode_binary({"inputs": [image()]}, b"", length)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("length", [0, 3, "5"])
def test_a_json_length_that_cuts_the_json_is_refused(length: str | int) -> None:
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length says, is"):
        decode_binary({"inputs": [image()]}, b"", length)


@pytest.mark.parametrize("size", [-1, 0, 7, 9, 10**12, 8.0, "8", True, [], {}])
def test_a_binary_size_that_lies_is_refused(size: Any) -> None:
    entry = binary_entry(image(), b"") | {"parameters": {"binary_data_size": size}}
    with pytest.raises(InvalidRequest, match=r"inputs\[0\]\.parameters\.binary_data_size"):
        decode_binary({"inputs": [entry]}, elements(b"abcd"))


@pytest.mark.parametrize("entry", [image(), image(data=None)])
def test_bytes_nobody_declared_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"inputs\[0\]"):
        decode_binary({"inputs": [entry]}, b"trailing")


@pytest.mark.parametrize(
    ("shape", "tail"),
    [
        ([1], b""),
        ([1], b"\x01\x00\x00"),
        ([1], b"\x05\x00\x00\x00abcd"),
        ([1], b"\xff\xff\xff\xffabcd"),
        ([1], b"\x03\x00\x00\x00abcd"),
        ([1], elements(b"a", b"b")),
        ([2], elements(b"a")),
        ([1], struct.pack(">I", 4) + b"abcd"),
    ],
)
def test_length_prefixes_that_lie_are_refused(shape: list[int], tail: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"inputs\[0\]: "):
        decode_binary({"inputs": [binary_entry(image(shape=shape), tail)]}, tail)


@pytest.mark.parametrize("size", [0, 11, 13])
def test_raw_numbers_must_fill_the_shape(size: int) -> None:
    tail = bytes(size)
    with pytest.raises(InvalidRequest, match="its shape needs 12"):
        decode_binary({"inputs": [binary_entry(pixels(), tail)]}, tail)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_raw_floats_must_be_finite(value: float) -> None:
    array = np.zeros(72, dtype="<f4")
    array[5] = value
    with pytest.raises(InvalidRequest, match="position 5"):
        decode_binary({"inputs": [binary_entry(tensor(), array.tobytes())]}, array.tobytes())


# gRPC


def decode_grpc(
    *inputs: InputTensor,
    id: str = "",
    outputs: tuple[str, ...] = (),
    parameters: Mapping[str, Any] | None = None,
) -> InferCall:
    return v2.decode_tensors(
        id,
        inputs,
        [RequestedOutput(name, binary=True) for name in outputs],
        parameters or {},
        MODEL,
        max_pictures=MAX_PICTURES,
    )


@pytest.mark.parametrize("data", [elements(JPEG, b"x"), [JPEG, b"x"]], ids=["raw", "contents"])
def test_grpc_pictures_are_bytes(data: Any) -> None:
    call = decode_grpc(InputTensor("image", "BYTES", (2,), data, {}), id="7", outputs=("verdict",))
    assert encoded(call.pictures) == [JPEG, b"x"]
    assert call.id == "7"
    assert [output.name for output in call.outputs] == ["verdict"]


def test_grpc_contents_are_numbers() -> None:
    from_pixels = decode_grpc(InputTensor("pixels", "UINT8", (1, 2, 2, 3), [*range(12)], {}))
    np.testing.assert_array_equal(arrays(from_pixels.pictures)[0], np.arange(12).reshape(2, 2, 3))
    from_floats = decode_grpc(InputTensor("tensor", "FP32", (1, 3, 4, 6), [0.25] * 72, {}))
    assert arrays(from_floats.pictures)[0].sum() == 18


@pytest.mark.parametrize(
    "tensor_",
    [
        InputTensor("image", "BYTES", (1,), [], {}),
        InputTensor("image", "BYTES", (-1,), [JPEG], {}),
        InputTensor("image", "BYTES", (2**62,), [JPEG], {}),
        InputTensor("image", "BYTES", (), [JPEG], {}),
        InputTensor("image", "FP128", (1,), [], {}),
        InputTensor("", "", (), [], {}),
        InputTensor("pixels", "UINT8", (1, 2, 2, 3), [2**32 - 1] * 12, {}),
        InputTensor("tensor", "FP32", (1, 3, 4, 6), [float("nan")] * 72, {}),
        InputTensor("tensor", "FP32", (1, 3, 4, 6), [float("inf")] * 72, {}),
        InputTensor("image", "BYTES", (1,), b"", {"shared_memory_region": "r"}),
    ],
)
def test_malformed_grpc_tensors_are_refused_by_place(tensor_: InputTensor) -> None:
    with pytest.raises(InvalidRequest, match=r"inputs\[0\]"):
        decode_grpc(tensor_)


def test_grpc_needs_exactly_one_input_and_known_outputs() -> None:
    picture = InputTensor("image", "BYTES", (1,), [JPEG], {})
    for inputs in ((), (picture, picture)):
        with pytest.raises(InvalidRequest, match="exactly one of image, pixels, tensor"):
            decode_grpc(*inputs)
    with pytest.raises(InvalidRequest, match=r"outputs\[0\]"):
        decode_grpc(picture, outputs=("logits",))
    with pytest.raises(InvalidRequest, match="twice"):
        decode_grpc(picture, outputs=("verdict", "verdict"))
    with pytest.raises(InvalidRequest, match="id"):
        decode_grpc(picture, id="x" * 129)
    with pytest.raises(InvalidRequest, match="sequence_id"):
        decode_grpc(picture, parameters={"sequence_id": "a"})
    assert decode_grpc(picture, parameters={"timeout": 1000}).timeout_s == 0.001


def test_json_binary_and_grpc_give_the_same_pictures() -> None:
    array = np.random.default_rng(3).standard_normal((2, 3, 4, 6)).astype("<f4")
    raw = array.tobytes()
    shape = [2, 3, 4, 6]
    by_json = decode({"inputs": [tensor(shape=shape, data=array.ravel().tolist())]})
    by_binary = decode_binary({"inputs": [binary_entry(tensor(shape=shape), raw)]}, raw)
    by_grpc = decode_grpc(InputTensor("tensor", "FP32", tuple(shape), raw, {}))
    for call in (by_json, by_binary, by_grpc):
        np.testing.assert_array_equal(arrays(call.pictures), array)
