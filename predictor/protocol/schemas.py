"""Bodies of requests and answers as pydantic models, for `/openapi.json`.

The decoders do not run them: they check more, faster, and without echoing what was sent. The models
say the same to people and to code generators.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VerdictName = Literal["fake", "real", "uncertain"]


class _Body(BaseModel):
    # The protocol's own field names (model_name) begin as pydantic's do.
    model_config = ConfigDict(protected_namespaces=())


class _InputBody(_Body):
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size: bytes of this tensor behind the JSON"
    )


class ImageInput(_InputBody):
    """Picture files."""

    name: Literal["image"]
    datatype: Literal["BYTES"]
    shape: list[int] = Field(min_length=1, max_length=2, description="[N], or [N, 1]")
    data: list[str] | list[list[str]] | None = Field(
        None, description="Files as base64; absent where they follow the JSON as bytes"
    )


class PixelsInput(_InputBody):
    """Decoded pictures of any size, RGB."""

    name: Literal["pixels"]
    datatype: Literal["UINT8"]
    shape: list[int] = Field(min_length=4, max_length=4, description="[N, H, W, 3]")
    data: list[Any] | None = Field(
        None, description="Flat, or nested as the shape; absent where it follows as bytes"
    )


class TensorInput(_InputBody):
    """Pictures that the caller resized and normalised."""

    name: Literal["tensor"]
    datatype: Literal["FP32"]
    shape: list[int] = Field(
        min_length=4, max_length=4, description="[N, 3, H, W] of the model's size"
    )
    data: list[Any] | None = Field(
        None, description="Flat, or nested as the shape; absent where it follows as bytes"
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
    inputs: list[Annotated[ImageInput | PixelsInput | TensorInput, Field(discriminator="name")]] = (
        Field(min_length=1, max_length=1)
    )
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


class LegacyErrorBody(ErrorBody):
    """Any failure of `POST /infer`."""

    detail: str = Field(description="The same as `error`, where the old service had it")


# Health and metadata


class Alive(_Body):
    """The process answers."""

    status: Literal["alive"]


class Live(_Body):
    """The process is alive."""

    live: Literal[True]


class Ready(_Body):
    """Traffic may come here."""

    ready: Literal[True]


class ModelReady(_Body):
    """The model answers."""

    name: str
    ready: Literal[True]


class Models(_Body):
    """Names of the models here."""

    models: list[str]


class ServerMetadata(_Body):
    """This server, and what of the protocol it speaks."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Body):
    """A tensor; -1 in its shape is any size."""

    name: str
    datatype: str
    shape: list[int]
    optional: bool = Field(False, description="Of several inputs, a request has exactly one")


class ModelMetadata(_Body):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, Any] = Field(description="Labels in their order; digest of the bundle")
