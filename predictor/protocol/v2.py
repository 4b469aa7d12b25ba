"""The Open Inference Protocol (V2): JSON bodies, binary bodies, and what gRPC shares with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from predictor.errors import InvalidRequest
from predictor.inference.pictures import Picture
from predictor.protocol.checks import (
    as_list,
    as_object,
    as_text,
    kind,
    parse_object,
    shown,
)
from predictor.protocol.messages import (
    InferCall,
    InputTensor,
    ModelDescription,
    RequestedOutput,
)
from predictor.protocol.tensors import INPUTS, refuse_shared_memory, to_pictures
from predictor.protocol.v2_encode import (
    OUTPUTS,
    encode,
    metadata,
    output_tensors,
    server_metadata,
)

__all__ = [
    "InferCall",
    "decode_binary",
    "decode_json",
    "decode_tensors",
    "encode",
    "metadata",
    "output_tensors",
    "raw_call",
    "server_metadata",
]

MAX_ID_LENGTH: Final = 128

_MEASURED_JSON: Final = "the JSON, as long as Inference-Header-Content-Length says,"
_LENGTH = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

_UNSUPPORTED: Final = {
    "sequence_id": "sequences are not supported; every request stands alone",
    "classification": "class strings are not supported; read probabilities and label_names",
    "shared_memory_region": "shared memory is not supported; read the data from the answer",
}
"""Parameters that change what the answer means, so that ignoring them would be a lie."""


def decode_json(
    body: bytes | memoryview, model: ModelDescription, *, max_pictures: int
) -> InferCall:
    """Read a request whose body is JSON alone.

    Raises:
        InvalidRequest: naming the place (``inputs[0].shape``) and the fix.
    """
    return _decode(body, None, model, max_pictures)


def read_json_length(header: str, body: bytes | memoryview) -> int:
    """Bytes of JSON before the tensors, from Inference-Header-Content-Length.

    Raises:
        InvalidRequest: it is no length, or more than there is.
    """
    if _LENGTH.fullmatch(header) is None or int(header) > len(body):
        raise InvalidRequest(
            "Inference-Header-Content-Length: must be the length of the JSON in bytes, at most "
            f"that of the body ({len(body)})"
        )
    return int(header)


def decode_binary(
    body: bytes | memoryview, json_length: int, model: ModelDescription, *, max_pictures: int
) -> InferCall:
    """Read a request whose tensors may follow the JSON as bytes. The pictures are views of `body`.

    Args:
        json_length: as `read_json_length` has it.

    Raises:
        InvalidRequest: naming the place and the fix; every byte must be accounted for.
    """
    view = memoryview(body)
    return _decode(view[:json_length], view[json_length:], model, max_pictures)


def decode_tensors(
    id: str,
    inputs: Sequence[InputTensor],
    outputs: Sequence[RequestedOutput],
    parameters: Mapping[str, Any],
    model: ModelDescription,
    *,
    max_pictures: int,
) -> InferCall:
    """Check a request that is already taken apart, as gRPC's is.

    Raises:
        InvalidRequest: naming the place and the fix.
    """
    if len(id) > MAX_ID_LENGTH:
        raise InvalidRequest(f"id: has {len(id)} characters; send at most {MAX_ID_LENGTH}")
    _refuse_unsupported(parameters, "parameters")
    timeout_s = _timeout_s(parameters.get("timeout"))
    requested = _requested(outputs, binary=_flag(parameters, "binary_data_output", "parameters"))
    _check_one_input(inputs)
    pictures = to_pictures(inputs[0], "inputs[0]", model, max_pictures=max_pictures)
    return InferCall(id, pictures, requested, timeout_s)


def raw_call(picture: Picture) -> InferCall:
    """Make the call that a picture as the whole body stands for: every output, as JSON."""
    return InferCall("", (picture,), _requested((), binary=False), None)


def _decode(
    head: bytes | memoryview, tail: memoryview | None, model: ModelDescription, max_pictures: int
) -> InferCall:
    body = parse_object(head) if tail is None else parse_object(head, _MEASURED_JSON)
    parameters = as_object(body.get("parameters"), "parameters")
    identifier = body.get("id")
    entries = as_list(body.get("inputs"), "inputs")
    _check_one_input(entries)
    return decode_tensors(
        "" if identifier is None else as_text(identifier, "id"),
        [_input(entries[0], "inputs[0]", tail)],
        _outputs(
            as_list(body.get("outputs"), "outputs"),
            _flag(parameters, "binary_data_output", "parameters"),
        ),
        parameters,
        model,
        max_pictures=max_pictures,
    )


def _check_one_input(inputs: Sequence[object]) -> None:
    if len(inputs) != 1:
        raise InvalidRequest(
            f"inputs: has {len(inputs)} entries; send exactly one of {', '.join(INPUTS)}"
        )


def _input(entry: object, place: str, tail: memoryview | None) -> InputTensor:
    """Read one entry of `inputs`, with its data from the JSON or from the bytes behind it."""
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{place}: is {kind(entry)}; must be an object")
    for name in ("name", "datatype", "shape"):
        if entry.get(name) is None:
            raise InvalidRequest(f"{place}.{name}: is missing")
    parameters = as_object(entry.get("parameters"), f"{place}.parameters")
    refuse_shared_memory(parameters, place)
    shape = as_list(entry["shape"], f"{place}.shape")
    for axis, size in enumerate(shape):
        if type(size) is not int:
            raise InvalidRequest(f"{place}.shape[{axis}]: is {kind(size)}; must be an integer")
    return InputTensor(
        as_text(entry["name"], f"{place}.name"),
        as_text(entry["datatype"], f"{place}.datatype"),
        tuple(shape),
        _data(entry.get("data"), parameters.get("binary_data_size"), tail, place),
        parameters,
    )


def _data(
    data: object, binary_size: object, tail: memoryview | None, place: str
) -> memoryview | list[Any]:
    size_place = f"{place}.parameters.binary_data_size"
    if binary_size is None:
        if data is None:
            raise InvalidRequest(f"{place}.data: is missing")
        if tail:
            raise InvalidRequest(
                f"{size_place}: is missing, but {len(tail)} bytes follow the JSON; "
                "send the data in one place"
            )
        return as_list(data, f"{place}.data")
    if data is not None:
        raise InvalidRequest(f"{place}: has data and binary_data_size; send one of them")
    if tail is None:
        raise InvalidRequest(
            f"{size_place}: binary data needs the Inference-Header-Content-Length header"
        )
    if type(binary_size) is not int or binary_size != len(tail):
        raise InvalidRequest(
            f"{size_place}: is {shown(binary_size)}; "
            f"must be the number of bytes that follow the JSON ({len(tail)})"
        )
    return tail


def _outputs(entries: list[Any], binary: bool) -> list[RequestedOutput]:
    requested = []
    for index, entry in enumerate(entries):
        place = f"outputs[{index}]"
        if not isinstance(entry, dict):
            raise InvalidRequest(f"{place}: is {kind(entry)}; must be an object")
        parameters = as_object(entry.get("parameters"), f"{place}.parameters")
        name = as_text(entry.get("name"), f"{place}.name")
        requested.append(requested_output(name, parameters, index, binary=binary))
    return requested


def requested_output(
    name: str, parameters: Mapping[str, Any], index: int, *, binary: bool
) -> RequestedOutput:
    """One output that is asked for, by its own parameters.

    Args:
        index: which one, for errors.
        binary: what holds where they do not say.

    Raises:
        InvalidRequest: a parameter that is not supported.
    """
    place = f"outputs[{index}].parameters"
    _refuse_unsupported(parameters, place)
    return RequestedOutput(name, _flag(parameters, "binary_data", place, default=binary))


def _requested(outputs: Sequence[RequestedOutput], *, binary: bool) -> tuple[RequestedOutput, ...]:
    """Check the names; nothing asked for means everything."""
    if not outputs:
        return tuple(RequestedOutput(name, binary) for name in OUTPUTS)
    seen = set()
    for index, output in enumerate(outputs):
        if output.name not in OUTPUTS:
            raise InvalidRequest(
                f"outputs[{index}].name: unknown output {shown(output.name)}; "
                f"this model has {', '.join(OUTPUTS)}"
            )
        if output.name in seen:
            raise InvalidRequest(f"outputs[{index}].name: {output.name} is asked for twice")
        seen.add(output.name)
    return tuple(outputs)


def _flag(parameters: Mapping[str, Any], name: str, place: str, *, default: bool = False) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{place}.{name}: is {kind(value)}; must be true or false")
    return value


def _refuse_unsupported(parameters: Mapping[str, Any], place: str) -> None:
    for name, reason in _UNSUPPORTED.items():
        if parameters.get(name) not in (None, 0, ""):  # what clients send for "not in use"
            raise InvalidRequest(f"{place}.{name}: {reason}")


def _timeout_s(microseconds: object) -> float | None:
    """Read Triton's `timeout`, where 0 stands for none."""
    if microseconds is None:
        return None
    if type(microseconds) is not int or microseconds < 0:
        raise InvalidRequest(
            f"parameters.timeout: is {shown(microseconds)}; must be microseconds, 0 or more"
        )
    return microseconds / 1e6 if microseconds else None
