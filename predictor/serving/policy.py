"""What every request must pass, on REST and gRPC alike: a key, a place, a deadline, an id."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from predictor.errors import InvalidRequest, Overloaded, WireError
from predictor.inference.admission import Admission
from predictor.inference.places import Places
from predictor.security import api_keys
from predictor.security.audit import AuditLog
from predictor.serving.byte_budget import ByteBudget
from predictor.serving.call import Call
from predictor.serving.refusal_log import RefusalLog
from predictor.settings import LimitSettings
from predictor.telemetry.recording import Metrics
from predictor.telemetry.tracing import Tracer

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LATE = "the answer was not ready within the request's deadline"
RETRY_STEP_S: Final = {"http": 1.0, "grpc": 0.0}
"""`Retry-After` is in whole seconds (RFC 9110, 10.2.3): who is promised half a second cannot be
told, comes at another time, and finds no place."""
TIMEOUT_MS = re.compile(r"[1-9][0-9]{0,8}")


def request_id(offered: str | None) -> str:
    """Return the caller's id when it is safe to log and echo, else a new one."""
    if offered is not None and REQUEST_ID.fullmatch(offered):
        return offered
    return f"{random.getrandbits(128):032x}"  # a name, not a secret


class Policy:
    """One instance per process, shared by both protocols; lives on the event loop.

    Args:
        keys: None when `auth.mode` is `none`: everybody may call.
        audit: None when nothing is audited.
        metrics: None for some of its own, which nobody reads.
        tracer: None when nothing is traced.
        refusal_log: None for one of its own.
    """

    def __init__(
        self,
        keys: api_keys.Verifier | None,
        limits: LimitSettings,
        audit: AuditLog | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
        *,
        refusal_log: RefusalLog | None = None,
    ) -> None:
        self._keys = keys
        self._limits = limits
        self.audit = audit
        self.metrics = metrics or Metrics()
        self.tracer = tracer
        self._places = Places(limits.max_in_flight)
        self.bytes = ByteBudget(limits.max_bytes_in_flight)
        self.refusal_log = refusal_log or RefusalLog()
        self.admission: Admission | None = None
        """What a picture has to expect; None while the model loads."""

    @property
    def in_flight(self) -> int:
        return self._places.taken

    def accept(self, headers: Iterable[tuple[bytes, bytes]], call: Call) -> None:
        """Note in `call` whose key it shows, and record the decision.

        Raises:
            NotReady: the decision could not be recorded.
            Unauthenticated, InvalidRequest: as `authenticate`.
        """
        if self.audit is not None:
            self.audit.require()
        try:
            call.key_id = self.authenticate(headers)
        except WireError as error:
            call.audit_decision(self.audit, error.code)
            raise
        call.accepted = True
        if self._keys is not None:
            call.audit_decision(self.audit, "OK")

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the id of the caller's key, or None when no keys are asked for.

        Raises:
            Unauthenticated: no key, or one that is not known here or has expired.
            InvalidRequest: key headers that contradict each other.
        """
        if self._keys is None:
            return None
        return self._keys.verify(api_keys.extract(headers)).id

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

    def check(self, call: Call) -> None:
        """Refuse, before the body is read, an inference request that could not be answered by its
        deadline even if it held one small picture, or for which there is no place.

        Raises:
            Overloaded: the answer would be late, or the caller's share of the places is taken.
        """
        if not self._places.fit(call.key_id):
            raise self._full()
        if self.admission is not None:
            call.promised = self.admission.check(
                caller=call.key_id,
                deadline=call.deadline,
                retry_step_s=RETRY_STEP_S[call.protocol],
            )

    @contextmanager
    def admit(self, call: Call) -> Iterator[None]:
        """Hold one of the `limits.max_in_flight` places for a request that has passed `check`.

        Raises:
            Overloaded: others came in meanwhile.
        """
        if self.admission is not None:
            self.admission.check_again(
                caller=call.key_id, deadline=call.deadline, promised=call.promised
            )
        if not self._places.take(call.key_id):
            raise self._full()
        try:
            yield
        finally:
            self._places.give_back(call.key_id)

    @staticmethod
    def _full() -> Overloaded:
        return Overloaded("too many requests are in flight; retry later", reason="in_flight")
