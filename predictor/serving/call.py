"""What is known of one request on its way: for its headers, and for what is written down of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from predictor.inference.pictures import Verdict
from predictor.inference.timeline import Timeline
from predictor.protocol.messages import ModelDescription
from predictor.security.audit import AuditLog
from predictor.security.rate_limits import Allowance
from predictor.telemetry.tracing import Trace


@dataclass(slots=True)
class Call:
    """One request; made by an edge, filled in by what it passes.

    Attributes:
        protocol: `http` or `grpc`, for logs and audit records.
        route: the route's path as it is declared, or the gRPC method; never what a client sent.
        public: answered without a key.
        counted_as: the metrics' `protocol` of a request for inference; None of others.
        accepted: it has shown its key, or needs none.
        deadline: `time.monotonic()` by which to answer, from when its head was accepted.
        promised: it was refused before, and comes when it was told to.
        message_bytes: of its gRPC message.
        digests: SHA-256 of each picture.
    """

    protocol: str = "none"
    route: str | None = None
    request_id: str = ""
    public: bool = False
    counted_as: str | None = None
    timeline: Timeline = field(default_factory=lambda: Timeline(time.monotonic()))
    trace: Trace | None = None
    key_id: str | None = None
    accepted: bool = False
    deadline: float = 0.0
    promised: bool = False
    allowance: Allowance | None = None
    model: ModelDescription | None = None
    message_bytes: int = 0
    digests: Sequence[str] = field(default_factory=list)
    verdicts: Sequence[Verdict] = field(default_factory=list)

    @property
    def ids(self) -> dict[str, str]:
        """What leads from a metric to this request: at most 128 characters, as OpenMetrics asks."""
        ids = {"request_id": self.request_id}
        if self.trace is not None and self.trace.sampled:
            ids["trace_id"] = self.trace.trace_id
        return ids

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.allowance is None else self.allowance.headers()

    def audit_decision(self, audit: AuditLog | None, code: str) -> None:
        """Record whether the caller may ask."""
        if audit is not None:
            audit.record("authentication", **self._fields(), code=code)

    def audit_answer(self, audit: AuditLog | None, code: str) -> None:
        """Record how an accepted request for inference was answered."""
        if audit is None or not self.accepted:
            return
        model = self.model
        audit.record(
            "inference",
            **self._fields(),
            code=code,
            model=model and model.name,
            model_version=model and model.version,
            model_digest=model and model.digest,
            pictures=list(self.digests),
            verdicts=list(self.verdicts),
        )

    def _fields(self) -> dict[str, str | None]:
        return {
            "request_id": self.request_id,
            "key_id": self.key_id,
            "protocol": self.protocol,
            "route": self.route,
        }


call_var: Final[ContextVar[Call]] = ContextVar("call")
