"""A V2 input tensor to pictures: shapes, sizes and values checked, bytes never copied to lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidRequest
from predictor.inference.pictures import EncodedImage, Picture, Pixels, Tensor
from predictor.protocol.checks import decode_base64, kind, shown
from predictor.protocol.messages import BYTES_LENGTH, InputTensor, ModelDescription

MAX_DIMENSION: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class InputKind:
    """One of the model's inputs: its datatype, its shape in words, and how to read it."""

    datatype: str
    shape: Callable[[ModelDescription], tuple[int, ...]]
    decode: Callable[[InputTensor, str], tuple[Picture, ...]]


def to_pictures(
    tensor: InputTensor, place: str, model: ModelDescription, *, max_pictures: int
) -> tuple[Picture, ...]:
    """Translate the one input of a request.

    Args:
        place: where the tensor is in the request (``inputs[0]``), for messages.
        max_pictures: most pictures in one request.

    Returns:
        One picture per element of the first dimension. Raw data is not copied: encoded
        pictures are slices of it, arrays are read-only views (where aligned).

    Raises:
        InvalidRequest: anything about the tensor is not as the model's metadata says.
    """
    expected = INPUTS.get(tensor.name)
    if expected is None:
        raise InvalidRequest(
            f"{place}.name: unknown input {shown(tensor.name)}; send one of {', '.join(INPUTS)}"
        )
    if tensor.datatype != expected.datatype:
        raise InvalidRequest(
            f"{place}.datatype: {shown(tensor.datatype)} for input {tensor.name}; "
            f"must be {expected.datatype}"
        )
    refuse_shared_memory(tensor.parameters, place)
    _check_shape(tensor, f"{place}.shape", expected.shape(model))
    if tensor.shape[0] > max_pictures:
        raise InvalidRequest(
            f"{place}.shape[0]: {tensor.shape[0]} pictures; send at most {max_pictures} "
            "in one request (limits.max_pictures)"
        )
    return expected.decode(tensor, place)


def refuse_shared_memory(parameters: Mapping[str, Any], place: str) -> None:
    """Refuse a tensor that says its data is somewhere on the client's machine.

    Raises:
        InvalidRequest: it does.
    """
    if parameters.get("shared_memory_region") is not None:
        raise InvalidRequest(
            f"{place}.parameters.shared_memory_region: shared memory is not supported; "
            "send the data in the request"
        )


def _check_shape(tensor: InputTensor, place: str, expected: tuple[int, ...]) -> None:
    """Compare with the shape in the metadata, where -1 is any positive size."""
    shape = tensor.shape
    wanted = f"must be {_in_words(tensor.name, expected)}"
    if tensor.name == "image" and len(shape) == 2:
        expected = (-1, 1)  # as clients that cannot send one dimension do
    if len(shape) != len(expected):
        raise InvalidRequest(f"{place}: has {len(shape)} dimensions; {wanted}")
    for axis, (size, fixed) in enumerate(zip(shape, expected, strict=True)):
        if not 1 <= size <= MAX_DIMENSION or fixed not in (-1, size):
            raise InvalidRequest(f"{place}[{axis}]: is {shown(size)}; the shape {wanted}")


def _in_words(name: str, shape: tuple[int, ...]) -> str:
    free = iter("NHW")
    sizes = ", ".join(next(free) if size == -1 else str(size) for size in shape)
    return f"[{sizes}] for input {name}"


def _decode_image(tensor: InputTensor, place: str) -> tuple[Picture, ...]:
    if isinstance(tensor.data, list):
        place = f"{place}.data"
        elements = _flatten(tensor.data, tensor.shape, place)
        return tuple(
            EncodedImage(
                element
                if isinstance(element, bytes)
                else decode_base64(element, f"{place}[{index}]")
            )
            for index, element in enumerate(elements)
        )
    return tuple(
        EncodedImage(element) for element in _split(tensor.data, math.prod(tensor.shape), place)
    )


def _split(data: bytes | memoryview, count: int, place: str) -> list[memoryview]:
    """Split a raw BYTES tensor into its `count` elements."""
    view = memoryview(data)
    elements = []
    start = 0
    for index in range(count):
        begin = start + BYTES_LENGTH.size
        if begin > len(view):
            raise InvalidRequest(
                f"{place}: the data ends before element {index}; the shape says {count} elements, "
                "each after its length in 4 little-endian bytes"
            )
        (length,) = BYTES_LENGTH.unpack_from(view, start)
        start = begin + length
        if start > len(view):
            raise InvalidRequest(
                f"{place}: element {index} says it has {length} bytes, but {len(view) - begin} "
                "follow; prefix each element with its length in 4 little-endian bytes"
            )
        elements.append(view[begin:start])
    if start != len(view):
        raise InvalidRequest(
            f"{place}: {len(view) - start} bytes follow the last element; "
            f"the shape says {count} elements"
        )
    return elements


def _decode_pixels(tensor: InputTensor, place: str) -> tuple[Picture, ...]:
    if isinstance(tensor.data, list):
        values = _flatten(tensor.data, tensor.shape, f"{place}.data")
        array = np.frombuffer(_octets(values, f"{place}.data"), dtype=np.uint8)
    else:
        array = np.frombuffer(_sized(tensor, tensor.data, 1, place), dtype=np.uint8)
    return tuple(Pixels(picture) for picture in array.reshape(tensor.shape))


def _decode_tensor(tensor: InputTensor, place: str) -> tuple[Picture, ...]:
    array: NDArray[np.float32]
    if isinstance(tensor.data, list):
        place = f"{place}.data"
        array = _floats(_flatten(tensor.data, tensor.shape, place), place)
    else:
        view = np.frombuffer(_sized(tensor, tensor.data, 4, place), dtype="<f4")
        # A tensor may begin at any byte of the body; vector code wants it on a multiple of 4.
        array = np.require(view, dtype=np.float32, requirements="A")
    finite = np.isfinite(array)
    if not finite.all():
        raise InvalidRequest(
            f"{place}: the value at position {int(finite.argmin())} is NaN, infinite or beyond "
            "FP32; send finite values only"
        )
    return tuple(Tensor(picture) for picture in array.reshape(tensor.shape))


def _sized(
    tensor: InputTensor, data: bytes | memoryview, item_size: int, place: str
) -> bytes | memoryview:
    needed = math.prod(tensor.shape) * item_size
    if len(data) != needed:
        raise InvalidRequest(
            f"{place}: has {len(data)} bytes of data, but its shape needs {needed} "
            f"({tensor.datatype}); make them agree"
        )
    return data


def _flatten(data: list[Any], shape: tuple[int, ...], place: str) -> list[Any]:
    """Return the values of a list that is either flat or nested exactly as `shape`."""
    if not (data and isinstance(data[0], list)):
        if len(data) != math.prod(shape):
            raise InvalidRequest(
                f"{place}: has {len(data)} values, but the shape needs {math.prod(shape)}; "
                "make them agree"
            )
        return data
    level: list[Any] = [data]
    for axis, size in enumerate(shape):
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise InvalidRequest(
                f"{place}: the nested lists do not match shape[{axis}]; "
                "nest them exactly as the shape says, or send one flat list"
            )
        level = list(chain.from_iterable(level))
    return level


def _octets(values: list[Any], place: str) -> bytes:
    _check_types(values, {int}, "an integer from 0 to 255", place)
    try:
        return bytes(values)
    except (ValueError, OverflowError):
        index = next(i for i, value in enumerate(values) if not 0 <= value <= 255)
        raise InvalidRequest(
            f"{place}: the value at position {index} is {shown(values[index])}; "
            "must be an integer from 0 to 255"
        ) from None


def _floats(values: list[Any], place: str) -> NDArray[np.float32]:
    _check_types(values, {int, float}, "a number", place)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused later
        return np.array(values, dtype=np.float32)


def _check_types(values: list[Any], allowed: set[type], wanted: str, place: str) -> None:
    if set(map(type, values)) <= allowed:
        return
    index = next(i for i, value in enumerate(values) if type(value) not in allowed)
    raise InvalidRequest(
        f"{place}: the value at position {index} is {kind(values[index])}; must be {wanted}"
    )


INPUTS: Final[dict[str, InputKind]] = {
    "image": InputKind("BYTES", lambda model: (-1,), _decode_image),
    "pixels": InputKind("UINT8", lambda model: (-1, -1, -1, 3), _decode_pixels),
    "tensor": InputKind("FP32", lambda model: (-1, 3, *model.input_size), _decode_tensor),
}
"""The model's inputs, of which a request has exactly one."""
