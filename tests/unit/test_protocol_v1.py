"""V1: instances in, predictions out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from predictor.errors import InternalError, InvalidRequest
from predictor.inference.pictures import Classification
from predictor.protocol import v1
from predictor.protocol.schemas import V1Request, V1Response
from tests.unit.protocol_requests import JPEG, MAX_PICTURES, MODEL, b64, result


def decode(body: Any) -> list[bytes]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [bytes(picture.data) for picture in v1.decode(raw, max_pictures=MAX_PICTURES)]


def test_instances_are_pictures_in_order() -> None:
    body = {"instances": [{"image": {"b64": b64(JPEG)}}, {"b64": b64(b"x")}]}
    assert decode(body) == [JPEG, b"x"]
    V1Request.model_validate(body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body is empty"),
        (b"[" * 100_000, "not valid JSON"),
        ([], "the body is a list"),
        ({}, "instances: is missing or empty"),
        ({"instances": []}, "instances: is missing or empty"),
        ({"instances": {}}, "instances: is an object"),
        ({"instances": [b64(JPEG)]}, "instances[0]: is a string"),
        ({"instances": [{}]}, "instances[0]: must have exactly one picture"),
        ({"instances": [{"image": "x"}]}, "instances[0].image"),
        ({"instances": [{"image": {}}]}, "instances[0].image"),
        ({"instances": [{"image": {"b64": "QQ=="}, "b64": "QQ=="}]}, "exactly one"),
        ({"instances": [{"b64": "QQ=="}, {"b64": None}]}, "instances[1].b64: is null"),
        ({"instances": [{"image": {"b64": "*"}}]}, "instances[0].image.b64"),
        ({"instances": [{"b64": "QQ=="}] * 5}, "limits.max_pictures"),
    ],
)
def test_malformed_requests_are_refused_by_place(body: Any, named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body)
    assert named in refused.value.message
    assert len(refused.value.message) < 300


def test_predictions_name_their_labels() -> None:
    body = v1.encode([result(0.7), result(0.2)], MODEL)
    first, second = json.loads(body)["predictions"]
    assert first == {
        "probabilities": {
            "generated": pytest.approx(0.6),
            "photo": pytest.approx(0.3),
            "edited": pytest.approx(0.1),
        },
        "fake_prob": 0.7,
        "real_prob": pytest.approx(0.3),
        "verdict": "fake",
    }
    assert second["fake_prob"] == 0.2
    V1Response.model_validate_json(body)


@pytest.mark.parametrize(("probability", "fake_prob"), [(np.nan, 0.5), (0.5, float("inf"))])
def test_numbers_that_are_none_are_never_answered(probability: float, fake_prob: float) -> None:
    broken = Classification(np.array([probability, 0, 1], dtype=np.float32), fake_prob, "real")
    with pytest.raises(InternalError):
        v1.encode([broken], MODEL)
