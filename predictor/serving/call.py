"""What is known of one request on its way: for its headers and its audit record."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from predictor.inference.pictures import Verdict
from predictor.protocol.schemas import ModelDescription
from predictor.security.audit import AuditLog
from predictor.security.rate_limits import Allowance


@dataclass(slots=True)
class Call:
    """One request; made by an edge, filled in by what it passes.

    Attributes:
        route: the route's path as it is declared, or the gRPC method; never what a client sent.
        accepted: it has shown its key, or needs none.
        digests: SHA-256 of each picture.
    """

    protocol: str = "none"
    route: str | None = None
    request_id: str | None = None
    key_id: str | None = None
    accepted: bool = False
    allowance: Allowance | None = None
    model: ModelDescription | None = None
    digests: Sequence[str] = field(default_factory=list)
    verdicts: Sequence[Verdict] = field(default_factory=list)

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
