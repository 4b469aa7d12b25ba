"""The words of the wire: the structures protocols share, and JSON bodies for `/openapi.json`.

The decoders do not run these pydantic models: they check more, faster, and without echoing
what was sent. The models say the same to people and to code generators.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from predictor.protocol.messages import (
    InferCall,
    InputTensor,
    ModelDescription,
    OutputTensor,
    RequestedOutput,
)

__all__ = [
    "ErrorBody",
    "InferCall",
    "InferRequestBody",
    "InferResponseBody",
    "InputTensor",
    "LegacyResponse",
    "ModelDescription",
    "OutputTensor",
    "RequestedOutput",
    "V1Request",
    "V1Response",
]

VerdictName = Literal["fake", "real", "uncertain"]


class _Body(BaseModel):
    # The protocol's own field names (model_name) begin as pydantic's do.
    model_config = ConfigDict(protected_namespaces=())


class InferInputBody(_Body):
    """One input tensor."""

    name: Literal["image", "pixels", "tensor"]
    datatype: Literal["BYTES", "UINT8", "FP32"]
    shape: list[int] = Field(
        description="image [N]; pixels [N, H, W, 3]; tensor [N, 3, H, W] of the model's size"
    )
    data: list[Any] | None = Field(
        None,
        description="Flat or nested as the shape. image: picture files as base64. "
        "Absent where the data follows the JSON as bytes.",
    )
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size: bytes of this tensor behind the JSON"
    )


class InferOutputRequestBody(_Body):
    """One output to answer."""

    name: Literal["probabilities", "fake_prob", "verdict"]
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data: true for bytes behind the JSON"
    )


class InferRequestBody(_Body):
    """A V2 inference request with exactly one input."""

    id: str | None = Field(None, max_length=128, description="Returned in the answer")
    inputs: list[InferInputBody] = Field(min_length=1, max_length=1)
    outputs: list[InferOutputRequestBody] | None = Field(
        None, description="What to answer, in this order; all outputs when absent"
    )
    parameters: dict[str, Any] | None = Field(
        None,
        description="timeout: microseconds; binary_data_output: true for bytes behind the JSON",
    )


class InferOutputBody(_Body):
    """One output tensor."""

    name: Literal["probabilities", "fake_prob", "verdict"]
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    data: list[float] | list[str] | None = Field(
        None, description="In row-major order; absent where it follows the JSON as bytes"
    )
    parameters: dict[str, Any] | None = None


class InferResponseBody(_Body):
    """The answer to a V2 inference request."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="That of the request, where it had one")
    outputs: list[InferOutputBody]


class V1Image(_Body):
    """A picture file."""

    b64: str = Field(description="The file as base64")


class V1Instance(_Body):
    """One picture to classify."""

    image: V1Image


class V1Request(_Body):
    """A V1 prediction request."""

    instances: list[V1Instance | V1Image] = Field(min_length=1)


class V1Prediction(_Body):
    """The answer for one picture."""

    probabilities: dict[str, float] = Field(description="Calibrated, by label name")
    fake_prob: float
    real_prob: float = Field(description="1 - fake_prob: every label means fake or real")
    verdict: VerdictName


class V1Response(_Body):
    """The answer to a V1 prediction request, in the order of its instances."""

    predictions: list[V1Prediction]


class LegacyResponse(_Body):
    """The answer of `POST /infer`."""

    request_id: str
    fake_prob: float
    real_prob: float


class ErrorBody(_Body):
    """Any failure, on every route."""

    error: str = Field(description="What was wrong and what to do")
    code: str = Field(description="A stable name, such as INVALID_REQUEST")
    request_id: str
