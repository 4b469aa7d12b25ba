"""How large a protobuf message may be, told from its bytes alone."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.errors import PayloadTooLarge
from predictor.protocol.message_size import MAX_FIELDS, check_message_size, shape_of

SHAPE = shape_of(pb.ModelInferRequest.DESCRIPTOR)
MANY = MAX_FIELDS + 1


def field(number: int, payload: bytes) -> bytes:
    """One field with a length: a text, a message, or packed numbers."""
    length, rest = b"", len(payload)
    while rest > 0x7F:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + payload


PICTURES = field(8, b"") * MANY


def refused(message: bytes, max_values: int = 1_000_000) -> bool:
    try:
        check_message_size(message, SHAPE, max_values)
    except PayloadTooLarge:
        return True
    return False


@pytest.mark.parametrize(
    "many",
    [
        pytest.param(field(5, b"") * MANY, id="tensors"),
        pytest.param(field(7, b"") * MANY, id="raw contents"),
        pytest.param(field(1, b"a") * MANY, id="names"),
        pytest.param(field(4, b"") * MANY, id="parameters"),
        pytest.param(field(6, field(2, b"") * MANY), id="parameters of an output"),
        pytest.param(field(5, field(5, PICTURES)), id="pictures"),
        pytest.param(field(5, field(5, b"\x20\x01" * MANY)), id="numbers, each with its tag"),
        pytest.param(field(4, field(2, b"\x10\x01" * MANY)), id="values of one parameter"),
        pytest.param(b"\x78\x01" * MANY, id="fields nobody knows"),
        pytest.param(b"\x7b\x7c" * MANY, id="groups"),
        pytest.param(
            field(5, field(5, field(8, b"") * MANY)) + b"\xff", id="no message in the end"
        ),
        pytest.param(field(5, field(5, field(8, b"") * MANY) + b"\x2f"), id="nor in the middle"),
    ],
)
def test_a_message_of_many_fields_is_refused(many: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match=r"limits\.max_json_values"):
        check_message_size(many, SHAPE, 1_000_000)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("uint_contents", 255),
        ("int64_contents", -1),
        ("fp32_contents", 0.5),
        ("fp64_contents", 0.5),
    ],
)
def test_numbers_are_counted_to_the_last_one(name: str, number: float) -> None:
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(shape=[1, 2, 3])
    getattr(tensor.contents, name).extend([number] * 997)
    raw = message.SerializeToString()
    assert not refused(raw, 1000)
    assert refused(raw, 999)


@pytest.mark.parametrize("tag", [b"", b"\x0a", b"\x08"], ids=["tag", "length", "number"])
def test_a_number_without_end_ends_the_message(tag: bytes) -> None:
    """To read all of it would take a time with the square of its length."""
    endless = tag + b"\xff" * 30_000_000
    with pytest.raises(DecodeError):
        pb.ModelInferRequest.FromString(endless)
    assert not refused(endless)
    assert refused(field(7, b"") * MANY + endless)


def test_a_length_beyond_64_bits_hides_nothing() -> None:
    """The parser drops what does not fit, and goes on behind the one byte that is left."""
    unknown = b"\x9a\x06" + b"\x81" + b"\x80" * 8 + b"\x02" + b"x"
    assert len(pb.ModelInferRequest.FromString(unknown + field(5, b"") * 3).inputs) == 3
    assert refused(unknown + field(5, b"") * MANY)


def test_pictures_cost_nothing_however_large() -> None:
    message = pb.ModelInferRequest(model_name="realfake", id="a")
    message.inputs.add(name="image", datatype="BYTES", shape=[2])
    message.raw_input_contents.extend([bytes(10_000_000)] * 2)
    assert not refused(message.SerializeToString(), 2)


@given(st.binary(max_size=200))
def test_whatever_the_parser_takes_is_looked_at_to_its_end(noise: bytes) -> None:
    """What follows anything parsable is still counted."""
    check_message_size(noise, SHAPE, 1000)
    try:
        pb.ModelInferRequest.FromString(noise)
    except DecodeError:
        return
    assert refused(noise + field(7, b"") * MANY)
