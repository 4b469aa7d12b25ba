"""What every wire format is translated to and from. No pydantic here: this is the hot path."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.inference.pictures import Picture

BYTES_LENGTH: Final = struct.Struct("<I")
"""Each element of a raw BYTES tensor follows its length: 4 bytes, little-endian."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a protocol has to say about the model, and check requests against.

    Attributes:
        input_size: (height, width) of a preprocessed `tensor`, in pixels.
        digest: SHA-256 over the bundle's files.
    """

    name: str
    version: str
    label_names: tuple[str, ...]
    input_size: tuple[int, int]
    platform: str
    digest: str


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor as a client sent it; nothing about it has been checked but the types.

    Attributes:
        data: bytes are raw (little-endian numbers; BYTES elements with length prefixes);
            a list holds values, where pictures are base64 `str` (JSON) or `bytes` (gRPC).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | list[Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output to answer, and whether its data follows the JSON as bytes."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferCall:
    """A V2 request, checked.

    Attributes:
        id: as sent; empty when none was.
        outputs: what to answer, in this order; never empty.
        timeout_s: seconds the request allows itself.
    """

    id: str
    pictures: tuple[Picture, ...]
    outputs: tuple[RequestedOutput, ...]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of the answer.

    Attributes:
        data: float32 of `shape` for FP32, one element per picture for BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | list[bytes]

    def raw(self) -> bytes:
        """Serialise: little-endian numbers, or length-prefixed BYTES elements."""
        if isinstance(self.data, list):
            return b"".join(BYTES_LENGTH.pack(len(item)) + item for item in self.data)
        return self.data.astype("<f4", copy=False).tobytes()

    def values(self) -> list[float] | list[bytes]:
        """List the elements in row-major order."""
        if isinstance(self.data, list):
            return self.data
        flat: list[float] = self.data.ravel().tolist()
        return flat
