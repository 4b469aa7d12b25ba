"""What every request must pass, on REST and gRPC alike: a key, a place, a deadline, an id."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from predictor.errors import InvalidRequest, Overloaded, Unauthenticated
from predictor.security import api_keys
from predictor.serving.byte_budget import ByteBudget
from predictor.settings import LimitSettings

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LATE = "the answer was not ready within the request's deadline"
TIMEOUT_MS = re.compile(r"[1-9][0-9]{0,8}")


def request_id(offered: str | None) -> str:
    """Return the caller's id when it is safe to log and echo, else a new one."""
    if offered is not None and REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


class Policy:
    """One instance per process, shared by both protocols; lives on the event loop.

    Args:
        keys: None when `auth.mode` is `none`: everybody may call.
    """

    def __init__(self, keys: api_keys.ApiKeys | None, limits: LimitSettings) -> None:
        self._keys = keys
        self._limits = limits
        self.in_flight = 0
        self.bytes = ByteBudget(limits.max_bytes_in_flight)

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the id of the caller's key, or None when no keys are asked for.

        Raises:
            Unauthenticated: no key, or one that is not known here.
            InvalidRequest: key headers that contradict each other.
        """
        if self._keys is None:
            return None
        key_id = self._keys.verify(api_keys.extract(headers))
        if key_id is None:
            raise Unauthenticated("the API key is not valid here")
        return key_id

    def deadline(self, timeout_ms: str | None, timeout_s: float | None = None) -> float:
        """Return the `time.monotonic()` by which to answer.

        Args:
            timeout_ms: the `X-Request-Timeout-Ms` header.
            timeout_s: what is left of a gRPC deadline.

        Raises:
            InvalidRequest: the header is not a whole number of milliseconds.
        """
        limit = self._limits.max_deadline_s
        if timeout_s is not None:
            limit = min(limit, timeout_s)
        if timeout_ms is not None:
            if not TIMEOUT_MS.fullmatch(timeout_ms):
                raise InvalidRequest(
                    "X-Request-Timeout-Ms must be a whole number of milliseconds, at least 1"
                )
            limit = min(limit, int(timeout_ms) / 1000)
        return time.monotonic() + limit

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold one of the `limits.max_in_flight` places for inference requests.

        Raises:
            Overloaded: all are taken.
        """
        if self.in_flight >= self._limits.max_in_flight:
            raise Overloaded("too many requests are in flight; retry later")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
