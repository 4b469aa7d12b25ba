"""Whatever a client sends, the V2 decoders answer with a call or a typed refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from predictor.errors import InternalError, RequestError
from predictor.inference.pictures import Classification
from predictor.protocol import legacy, v1, v2
from predictor.protocol.messages import InferCall, InputTensor
from tests.unit.protocol_requests import (
    JPEG,
    MAX_PICTURES,
    MODEL,
    arrays,
    b64,
    binary_entry,
    elements,
    encoded,
    image,
    pixels,
    result,
    tensor,
)

Result = TypeVar("Result")

quick = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)

# Words of the protocol, so that random structures come close to valid ones.
WORDS = st.sampled_from(
    [
        *("id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data"),
        *("image", "pixels", "tensor", "BYTES", "UINT8", "FP32", "probabilities", "verdict"),
        *("binary_data_size", "binary_data", "binary_data_output", "timeout", "sequence_id"),
        *("instances", "b64", "shared_memory_region", "classification"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, 2**64 - 1, -(2**63), 10**12]),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.text(max_size=8),
    st.just(b64(JPEG)),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
VALID = st.sampled_from(
    [
        {"id": "a", "inputs": [image()], "outputs": [{"name": "verdict"}], "parameters": {}},
        {"inputs": [pixels()], "parameters": {"timeout": 5, "binary_data_output": True}},
        {"inputs": [pixels(data=np.zeros((1, 2, 2, 3), int).tolist())]},
        {"inputs": [tensor()], "outputs": [{"name": "fake_prob", "parameters": {}}]},
        {"inputs": [binary_entry(image(), elements(JPEG))]},
        {"inputs": [binary_entry(pixels(), bytes(12))]},
        {"inputs": [binary_entry(tensor(), bytes(288))]},
    ]
)


def attempt(decode: Callable[[], Result]) -> Result | None:
    """Decode; a refusal must be typed, short and printable."""
    try:
        return decode()
    except RequestError as refusal:
        message = refusal.message
    assert 10 < len(message) < 400
    assert message.isprintable()
    return None


def attempt_call(decode: Callable[[], InferCall]) -> InferCall | None:
    """Decode V2; a call must be within the limits, and can be answered."""
    call = attempt(decode)
    if call is not None:
        assert 1 <= len(call.pictures) <= MAX_PICTURES
        assert len(call.outputs) == len({output.name for output in call.outputs}) > 0
        v2.encode(call, [result()] * len(call.pictures), MODEL)
    return call


def attempt_json(body: bytes) -> InferCall | None:
    return attempt_call(lambda: v2.decode_json(body, MODEL, max_pictures=MAX_PICTURES))


def attempt_binary(body: bytes, length: str | int) -> InferCall | None:
    def decode() -> InferCall:
        json_length = v2.read_json_length(str(length), body)
        return v2.decode_binary(body, json_length, MODEL, max_pictures=MAX_PICTURES)

    return attempt_call(decode)


def replace_somewhere(value: Any, replacement: Any, draw: Callable[..., Any]) -> Any:
    """Walk a random way down a structure; replace, remove or double what is found there."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 4)) == 0:
        return replacement
    key: Any = draw(st.sampled_from([*value]) if isinstance(value, dict) else st.just(0))
    if isinstance(value, list):
        key = draw(st.integers(0, len(value) - 1))
    copy = value.copy()
    how = draw(st.integers(0, 8))
    if how == 0:
        del copy[key]
    elif how == 1 and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = replace_somewhere(value[key], replacement, draw)
    return copy


@st.composite
def almost_valid(draw: Callable[..., Any]) -> Any:
    body = draw(VALID)
    for _ in range(draw(st.integers(1, 3))):
        body = replace_somewhere(body, draw(JSON), draw)
    return body


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


@quick
@given(st.binary(max_size=200))
def test_arbitrary_bytes(body: bytes) -> None:
    attempt_json(body)


@quick
@given(JSON)
def test_arbitrary_structures(value: Any) -> None:
    attempt_json(dump(value))


@quick
@given(almost_valid())
def test_almost_valid_requests(value: Any) -> None:
    attempt_json(dump(value))


@quick
@given(VALID, st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 4))
def test_valid_requests_with_damaged_bytes(
    value: Any, position: int, inserted: bytes, removed: int
) -> None:
    body = dump(value)
    position %= len(body)
    attempt_json(body[:position] + inserted + body[position + removed :])


@quick
@given(
    almost_valid() | VALID,
    st.binary(max_size=100) | st.sampled_from([elements(JPEG), bytes(12), bytes(288)]),
    st.none() | st.integers(-5, 2000) | st.text(max_size=6),
)
def test_binary_bodies(value: Any, tail: bytes, length: str | int | None) -> None:
    head = dump(value)
    attempt_binary(head + tail, len(head) if length is None else length)


@quick
@given(st.integers(1, 4), st.binary(max_size=60), st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_length_prefixes(count: int, tail: bytes, prefix: int, position: int) -> None:
    tail = tail[:position] + prefix.to_bytes(4, "little") + tail[position:]
    head = dump({"inputs": [binary_entry(image(shape=[count]), tail)]})
    call = attempt_binary(head + tail, len(head))
    if call is not None:
        assert elements(*encoded(call.pictures)) == tail


@quick
@given(
    st.sampled_from(["image", "pixels", "tensor", "", "x"]) | st.text(max_size=100),
    st.sampled_from(["BYTES", "UINT8", "FP32", "INT64"]) | st.text(max_size=100),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), max_size=5),
    st.binary(max_size=300)
    | st.lists(st.binary(max_size=5), max_size=5)
    | st.lists(st.integers(0, 2**32 - 1), max_size=20)
    | st.lists(st.floats(width=32), max_size=80),
    st.dictionaries(WORDS, st.none() | st.booleans() | st.integers() | st.text(max_size=5)),
)
def test_grpc_tensors(
    name: str, datatype: str, shape: list[int], data: Any, parameters: dict[str, Any]
) -> None:
    tensors = [InputTensor(name, datatype, tuple(shape), data, parameters)]
    attempt_call(
        lambda: v2.decode_tensors(name, tensors, [], parameters, MODEL, max_pictures=MAX_PICTURES)
    )


@quick
@given(JSON | st.fixed_dictionaries({"instances": JSON}))
def test_v1_structures(value: Any) -> None:
    pictures = attempt(lambda: v1.decode(dump(value), max_pictures=MAX_PICTURES))
    assert pictures is None or 1 <= len(pictures) <= MAX_PICTURES


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    + JPEG
    + b"\r\n--B--"
)


@quick
@given(
    st.binary(max_size=100) | st.just(FORM),
    st.integers(0, 200),
    st.binary(max_size=6) | st.sampled_from([b"\r\n", b"--B", b"--B--", b":", b'"']),
    st.just("multipart/form-data; boundary=B") | st.text(max_size=40),
)
def test_forms(body: bytes, position: int, inserted: bytes, content_type: str) -> None:
    damaged = body[:position] + inserted + body[position:]
    picture = attempt(lambda: legacy.decode_multipart(damaged, content_type))
    assert picture is None or picture.data


def decode_every_way(entry: dict[str, Any], raw: bytes, flat: list[Any]) -> list[InferCall]:
    """The same tensor by JSON, by a binary body, by gRPC raw and by gRPC contents."""
    head = orjson.dumps({"inputs": [binary_entry(entry, raw)]})
    message = (entry["name"], entry["datatype"], tuple(entry["shape"]))
    calls = [
        attempt_json(orjson.dumps({"inputs": [entry]})),
        attempt_binary(head + raw, str(len(head))),
    ]
    for data in (raw, flat):
        tensors = [InputTensor(*message, data, {})]
        calls.append(
            attempt_call(
                lambda tensors=tensors: v2.decode_tensors(  # type: ignore[misc]
                    "", tensors, [], {}, MODEL, max_pictures=MAX_PICTURES
                )
            )
        )
    accepted = [call for call in calls if call is not None]
    assert len(accepted) == len(calls)
    return accepted


@quick
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=MAX_PICTURES))
def test_pictures_survive_every_encoding(pictures: list[bytes]) -> None:
    entry = image(shape=[len(pictures)], data=[b64(picture) for picture in pictures])
    for call in decode_every_way(entry, elements(*pictures), pictures):
        assert encoded(call.pictures) == pictures


@quick
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3))
    ),
    st.booleans(),
)
def test_pixels_survive_every_encoding(array: NDArray[np.uint8], nested: bool) -> None:
    data = array.tolist() if nested else array.ravel().tolist()
    entry = pixels(shape=list(array.shape), data=data)
    for call in decode_every_way(entry, array.tobytes(), array.ravel().tolist()):
        np.testing.assert_array_equal(arrays(call.pictures), array)


@quick
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.just(3), st.just(4), st.just(6)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_tensors_survive_every_encoding(array: NDArray[np.float32]) -> None:
    entry = tensor(shape=list(array.shape), data=array.ravel().tolist())
    for call in decode_every_way(entry, array.astype("<f4").tobytes(), array.ravel().tolist()):
        np.testing.assert_array_equal(arrays(call.pictures), array)


NUMBER = st.floats(0, 1, width=32) | st.floats(width=32)


@quick
@given(hnp.arrays(np.float32, 3, elements=NUMBER), NUMBER | st.floats())
def test_answers_hold_probabilities_or_are_not_given(
    probabilities: NDArray[np.float32], fake_prob: float
) -> None:
    outcome = Classification(probabilities, fake_prob, "real")
    pictures = v1.decode(dump({"instances": [{"b64": "QQ=="}]}), max_pictures=1)
    try:
        body, _ = v2.encode(v2.raw_call(pictures[0]), [outcome], MODEL)
    except InternalError:
        assert any(not 0 <= number <= 1 for number in [*probabilities, fake_prob])
        return
    data = orjson.loads(body)["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(data, dtype=np.float32), probabilities)
    assert ((probabilities > -0.01) & (probabilities < 1.01)).all()
    (prediction,) = orjson.loads(v1.encode([outcome], MODEL))["predictions"]
    (answered,) = orjson.loads(body)["outputs"][1]["data"]
    old = orjson.loads(legacy.encode(outcome, "r"))
    assert answered == prediction["fake_prob"] == old["fake_prob"]
    assert prediction["real_prob"] == old["real_prob"]
    assert 0 <= answered <= 1
    assert abs(answered + old["real_prob"] - 1) < 1e-6
