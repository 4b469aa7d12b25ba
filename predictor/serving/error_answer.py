"""An error as HTTP tells it: one body and the same header fields, whichever part answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from predictor.errors import MethodNotAllowed, Unauthenticated, WireError


def error_body(error: WireError, request_id: str, *, legacy: bool = False) -> bytes:
    """Args: legacy: for clients of the old service, which read `detail`."""
    body = {"error": error.message, "code": error.code, "request_id": request_id}
    if legacy:
        body["detail"] = error.message
    return orjson.dumps(body)


def error_headers(error: WireError, allowed: Sequence[str] = ()) -> dict[str, str]:
    """What its status asks for.

    Args:
        allowed: the methods of the path.
    """
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        # Whole seconds send all who were refused back in the same moment. This one is no
        # standard; the SDKs of Azure and OpenAI read it.
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(allowed)
    return headers
