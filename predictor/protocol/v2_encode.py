"""Classifications to V2: output tensors, JSON or binary bodies, and the model's metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata as distributions
from typing import Any, Final

import numpy as np
import orjson

from predictor.inference.pictures import Classification
from predictor.protocol.answers import check, fake_prob
from predictor.protocol.messages import InferCall, ModelDescription, OutputTensor
from predictor.protocol.tensors import INPUTS

EXTENSIONS: Final = ("binary_tensor_data",)
"""The protocol's extensions, by Triton's names, that work here in full."""


@dataclass(frozen=True, slots=True)
class OutputKind:
    datatype: str
    shape: Callable[[ModelDescription], tuple[int, ...]]
    tensor: Callable[[str, Sequence[Classification]], OutputTensor]


def _probabilities(name: str, results: Sequence[Classification]) -> OutputTensor:
    data = np.array([result.probabilities for result in results], dtype=np.float32)
    return OutputTensor(name, "FP32", data.shape, data)


def _fake_prob(name: str, results: Sequence[Classification]) -> OutputTensor:
    data = np.array([fake_prob(result) for result in results], dtype=np.float32)
    return OutputTensor(name, "FP32", data.shape, data)


def _verdict(name: str, results: Sequence[Classification]) -> OutputTensor:
    data = [result.verdict.encode() for result in results]
    return OutputTensor(name, "BYTES", (len(data),), data)


OUTPUTS: Final[dict[str, OutputKind]] = {
    "probabilities": OutputKind("FP32", lambda model: (-1, len(model.label_names)), _probabilities),
    "fake_prob": OutputKind("FP32", lambda model: (-1,), _fake_prob),
    "verdict": OutputKind("BYTES", lambda model: (-1,), _verdict),
}
"""The model's outputs, in the order they are answered when none is asked for."""


def output_tensors(
    call: InferCall, results: Sequence[Classification], model: ModelDescription
) -> list[OutputTensor]:
    """Build the outputs that the call asked for, in its order.

    Raises:
        InternalError: the classifier's numbers are no probabilities, or not of the model's shape.
    """
    check(results, pictures=len(call.pictures), labels=len(model.label_names))
    return [OUTPUTS[output.name].tensor(output.name, results) for output in call.outputs]


def encode(
    call: InferCall, results: Sequence[Classification], model: ModelDescription
) -> tuple[bytes, int | None]:
    """Write the answer over HTTP.

    Returns:
        The body, and the length of the JSON it begins with where binary data follows it
        (None: the body is JSON alone).

    Raises:
        InternalError: as `output_tensors`.
    """
    parts: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    tensors = output_tensors(call, results, model)
    for requested, tensor in zip(call.outputs, tensors, strict=True):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if requested.binary:
            parts.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = _json_data(tensor)
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if call.id:
        head["id"] = call.id
    # The shortest decimals that give the same float32 back.
    text = orjson.dumps(head | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *parts]), len(text)) if parts else (text, None)


def _json_data(tensor: OutputTensor) -> Any:
    if isinstance(tensor.data, list):
        return [item.decode() for item in tensor.data]
    return tensor.data.ravel()


def metadata(model: ModelDescription) -> dict[str, Any]:
    """Describe the model: the protocol's own fields, and what they cannot say as `properties`."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [
            {
                "name": name,
                "datatype": kind.datatype,
                "shape": list(kind.shape(model)),
                "optional": True,
            }
            for name, kind in INPUTS.items()
        ],
        "outputs": [
            {"name": name, "datatype": kind.datatype, "shape": list(kind.shape(model))}
            for name, kind in OUTPUTS.items()
        ],
        "properties": {
            "label_names": list(model.label_names),
            "inputs": f"exactly one of {', '.join(INPUTS)}",
            "digest": model.digest,
        },
    }


@cache
def _version() -> str:
    try:
        return distributions.version("realfake")
    except distributions.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def server_metadata() -> dict[str, Any]:
    """Describe the server; `extensions` has what works, nothing more."""
    return {"name": "realfake", "version": _version(), "extensions": list(EXTENSIONS)}
