"""What a head decides: the faults that no request can bring about."""

from __future__ import annotations

import json

import pytest

from predictor.errors import InternalError
from predictor.serving.intake import Intake
from predictor.serving.lifecycle import Lifecycle
from predictor.serving.policy import Policy
from predictor.serving.routes import Routes
from predictor.settings import LimitSettings


class Broken(Policy):
    def accept(self, *args: object) -> None:
        raise ValueError("secret")


async def test_a_fault_of_ours_is_an_internal_error_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    intake = Intake(Routes([]), Broken(None, LimitSettings()), Lifecycle())
    exchange = intake.open("GET", "/v2", [(b"host", b"x")], 0.0)
    assert isinstance(exchange.refusal, InternalError)
    assert "unhandled error" in caplog.text
    answer = intake.refusal(exchange)
    assert answer is not None
    assert answer.status == 500
    assert json.loads(answer.body)["request_id"] == exchange.call.request_id
    assert b"secret" not in answer.body
