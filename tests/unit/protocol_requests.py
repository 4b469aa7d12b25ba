"""Requests the protocol tests start from: each valid, for the test to change."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.inference.pictures import Classification, EncodedImage, Picture
from predictor.protocol import v2
from predictor.protocol.messages import InferCall, ModelDescription

MODEL = ModelDescription(
    name="realfake",
    version="7",
    label_names=("generated", "photo", "edited"),
    input_size=(4, 6),
    platform="torch_cpu",
    digest="d" * 64,
)
MAX_PICTURES = 4
JPEG = b"\xff\xd8\xff\xe0 not utf-8, \x00 and all \xff\xd9"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(**change: Any) -> dict[str, Any]:
    """An `image` input entry; a change to None removes the field."""
    return _entry("image", "BYTES", [1], [b64(JPEG)], change)


def pixels(**change: Any) -> dict[str, Any]:
    return _entry("pixels", "UINT8", [1, 2, 2, 3], [*range(12)], change)


def tensor(**change: Any) -> dict[str, Any]:
    return _entry("tensor", "FP32", [1, 3, 4, 6], [0.5] * 72, change)


def _entry(
    name: str, datatype: str, shape: list[int], data: list[Any], change: dict[str, Any]
) -> dict[str, Any]:
    entry = {"name": name, "datatype": datatype, "shape": shape, "data": data} | change
    return {field: value for field, value in entry.items() if value is not None}


def decode(body: Any) -> InferCall:
    """Decode a JSON body given as a value, or as bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return v2.decode_json(raw, MODEL, max_pictures=MAX_PICTURES)


def decode_binary(head: Any, tail: bytes, length: str | int | None = None) -> InferCall:
    """Args: length: as the header has it, instead of the true one."""
    raw = json.dumps(head).encode()
    body = raw + tail
    json_length = v2.read_json_length(str(len(raw) if length is None else length), body)
    return v2.decode_binary(body, json_length, MODEL, max_pictures=MAX_PICTURES)


def binary_entry(entry: dict[str, Any], tail: bytes) -> dict[str, Any]:
    """The same entry with its data behind the JSON."""
    without = {field: value for field, value in entry.items() if field != "data"}
    return without | {"parameters": {"binary_data_size": len(tail)}}


def elements(*items: bytes) -> bytes:
    """A raw BYTES tensor."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def encoded(pictures: tuple[Picture, ...]) -> list[bytes]:
    assert all(isinstance(picture, EncodedImage) for picture in pictures)
    return [bytes(picture.data) for picture in pictures if isinstance(picture, EncodedImage)]


def arrays(pictures: tuple[Picture, ...]) -> list[NDArray[Any]]:
    return [picture.array for picture in pictures if not isinstance(picture, EncodedImage)]


def result(fake_prob: float = 0.7) -> Classification:
    probabilities = np.array([fake_prob - 0.1, 1 - fake_prob, 0.1], dtype=np.float32)
    return Classification(probabilities, fake_prob, "fake")
