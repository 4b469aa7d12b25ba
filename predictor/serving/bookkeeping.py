"""What is written down about every request, the same on both protocols: metrics, a log line, an
audit record, a trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from predictor.errors import InternalError, NotReady, ServiceError, WireError, let_go
from predictor.serving.call import Call, call_var
from predictor.serving.policy import Policy
from predictor.telemetry import trace_context
from predictor.telemetry.logging import request_id_var, span_id_var, trace_id_var
from predictor.telemetry.recording import OK, TURNED_AWAY

log = logging.getLogger("predictor.edge")
access_log = logging.getLogger("predictor.access")


def begin(policy: Policy, call: Call, headers: Mapping[str, str]) -> None:
    """Bind a request to the context this runs in: what is logged there carries its ids.

    Args:
        headers: by lower-case name; of those, the trace's count.
    """
    request_id_var.set(call.request_id)
    call_var.set(call)
    caller = trace_context.parse(headers.get("traceparent"))
    if policy.tracer is None or call.public:
        trace_id_var.set(None if caller is None else caller.trace_id)
        return
    trace = call.trace = policy.tracer.begin(caller, call.timeline)
    trace_id_var.set(trace.trace_id)
    span_id_var.set(trace.span_id)


def unexpected(policy: Policy, error: Exception) -> WireError:
    """What a caller gets for an error of our own, which is told in full to the log: as often as
    refusals are, for whoever finds it can repeat it.
    """
    if policy.refusal_log.has_room("TRACEBACK", None):
        log.error("unhandled error", exc_info=error)
    let_go(error)
    return InternalError()


def end(
    policy: Policy,
    call: Call,
    code: str,
    error: WireError | None,
    **fields: str | int | None,
) -> None:
    """Write down how a request ended. Must be called once, whatever became of it.

    Args:
        code: `error`'s, or OK, or how the call was ended from outside.
        fields: what the log line says of this protocol only.
    """
    now = time.monotonic()
    # Probes ask every few seconds, and not-ready is an answer they expect.
    quiet = call.public and code in (OK, NotReady.code)
    # Who has shown no key does not decide either how long the log gets.
    one_of_many = isinstance(error, TURNED_AWAY) or (not call.accepted and code != OK)
    if quiet or not one_of_many or policy.refusal_log.has_room(code, call.key_id):
        _log(call, code, now, fields, logging.DEBUG if quiet else logging.INFO)
    if not call.public:
        policy.metrics.asked(call.key_id, code, error)
    if call.counted_as is not None:
        call.audit_answer(policy.audit, code)
        policy.metrics.ended(
            call.counted_as, code, now - call.timeline.began, error, exemplar=call.ids
        )
    trace = call.trace
    # A stranger's word is not enough: his spans would push those of others out of the queue.
    if policy.tracer is not None and trace is not None and (call.accepted or not trace.forced):
        policy.tracer.end(
            trace,
            call.timeline,
            name=call.route or "unknown route",
            failed=isinstance(error, ServiceError),
            attributes=_attributes(call, code, fields),
        )


def _log(
    call: Call, code: str, now: float, fields: Mapping[str, str | int | None], level: int
) -> None:
    if not access_log.isEnabledFor(level):
        return
    timeline = call.timeline
    extra: dict[str, str | int | float | None] = {
        "protocol": call.protocol,
        "route": call.route,
        **fields,
        "code": code,
        "key_id": call.key_id,
        "duration_ms": _ms(now - timeline.began),
    }
    if timeline.pictures:
        for stage, began, ended in timeline.passages(now):
            extra[f"{stage}_ms"] = _ms(ended - began)
        extra["pictures"] = timeline.pictures
        if timeline.batch_size:
            extra["batch_size"] = timeline.batch_size
    access_log.log(level, "request", extra=extra)


def _attributes(
    call: Call, code: str, fields: Mapping[str, str | int | None]
) -> dict[str, str | int | None]:
    """Of the span; names by https://opentelemetry.io/docs/specs/semconv where it has one."""
    attributes: dict[str, str | int | None] = {
        "realfake.request_id": call.request_id,
        "realfake.code": code,
        "realfake.key_id": call.key_id,
        "error.type": None if code == OK else code,
    }
    if call.protocol == "grpc":
        attributes |= {"rpc.system.name": "grpc", "rpc.method": (call.route or "").lstrip("/")}
    else:
        attributes |= {
            "http.request.method": fields.get("method"),
            "http.route": call.route,
            "http.response.status_code": fields.get("status"),
        }
    if call.timeline.pictures:
        attributes["realfake.pictures"] = call.timeline.pictures
        attributes["realfake.batch_size"] = call.timeline.batch_size
    if call.model is not None:
        attributes["realfake.model_version"] = call.model.version
    return attributes


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
