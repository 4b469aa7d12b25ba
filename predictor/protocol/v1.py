"""The V1 protocol: `{"instances": […]}` in, `{"predictions": […]}` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from predictor.errors import InvalidRequest
from predictor.inference.pictures import Classification, EncodedImage
from predictor.protocol.answers import check, fake_prob, real_prob
from predictor.protocol.checks import as_list, decode_base64, kind, parse_object
from predictor.protocol.messages import ModelDescription

FORM: Final = '{"image": {"b64": "…"}} or {"b64": "…"}'
"""What one instance looks like, for messages."""


def decode(body: bytes | memoryview, *, max_pictures: int) -> tuple[EncodedImage, ...]:
    """Read the pictures of a request, each a base64 string.

    Args:
        max_pictures: most pictures in one request.

    Raises:
        InvalidRequest: naming the place (``instances[0].image.b64``) and the fix.
    """
    instances = as_list(parse_object(body).get("instances"), "instances")
    if not instances:
        raise InvalidRequest(f"instances: is missing or empty; send a list of {FORM}")
    if len(instances) > max_pictures:
        raise InvalidRequest(
            f"instances: has {len(instances)} pictures; send at most {max_pictures} "
            "in one request (limits.max_pictures)"
        )
    return tuple(
        EncodedImage(_picture(instance, f"instances[{index}]"))
        for index, instance in enumerate(instances)
    )


def _picture(instance: object, place: str) -> bytes:
    if not isinstance(instance, dict):
        raise InvalidRequest(f"{place}: is {kind(instance)}; must be {FORM}")
    if ("image" in instance) == ("b64" in instance):
        raise InvalidRequest(f"{place}: must have exactly one picture, as {FORM}")
    if "b64" in instance:
        return decode_base64(instance["b64"], f"{place}.b64")
    image = instance["image"]
    if not isinstance(image, dict) or "b64" not in image:
        raise InvalidRequest(f'{place}.image: must be {{"b64": "…"}}')
    return decode_base64(image["b64"], f"{place}.image.b64")


def encode(results: Sequence[Classification], model: ModelDescription) -> bytes:
    """Write one prediction per picture. `fake_prob` and `real_prob` add up to 1.

    Raises:
        InternalError: the classifier's numbers are no probabilities.
    """
    check(results, pictures=len(results), labels=len(model.label_names))
    predictions = [
        {
            "probabilities": dict(zip(model.label_names, result.probabilities, strict=True)),
            "fake_prob": fake_prob(result),
            "real_prob": real_prob(result),
            "verdict": result.verdict,
        }
        for result in results
    ]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
