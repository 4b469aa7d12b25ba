"""Spans of OpenTelemetry: one for each request, one for each of its stages, one for each forward.

Nothing of OpenTelemetry is imported, and nothing is made, unless `telemetry.otlp_endpoint` is set.
A request's spans are made when it has ended, from its timeline; its own begins first, because log
lines name it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from predictor.inference.observer import Observer
from predictor.inference.timeline import Timeline
from predictor.settings import TelemetrySettings
from predictor.telemetry.trace_context import TraceParent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext

NAME: Final = "predictor"
FLUSH_S: Final = 2.0
"""For the last spans, when the process stops and its collector may be gone."""

_COMPLAINING: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)

Attributes = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Trace:
    """The span of one request that is being served.

    Attributes:
        trace_id: 32 hexadecimal digits; the caller's where it sent one.
        span_id: 16.
        sampled: whether anybody will see it.
        forced: the caller wants it seen.
        offset_ns: from `time.monotonic()` to nanoseconds since 1970.
    """

    trace_id: str
    span_id: str
    sampled: bool
    forced: bool
    offset_ns: int
    span: Span

    def wall_ns(self, moment: float) -> int:
        return self.offset_ns + round(moment * 1e9)


class Tracer(Observer):
    """Makes spans and hands them to an exporter's thread; may be called from any thread.

    Args:
        sample_ratio: share of the requests that are traced where no caller has decided.
        service: `service.name`, unless `OTEL_SERVICE_NAME` says another.
    """

    def __init__(self, exporter: SpanExporter, *, sample_ratio: float, service: str) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBasedTraceIdRatio

        resource = Resource.create(
            {
                "service.name": service,
                "service.version": version("realfake"),
                "service.instance.id": socket.gethostname(),
            }
        ).merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(exporter)
        requests = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio), resource=resource, shutdown_on_exit=False
        )
        # Of a forward, whether it is traced follows from the requests in it.
        forwards = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for provider in (requests, forwards):
            provider.add_span_processor(self._processor)
        self._requests = requests.get_tracer(NAME)
        self._forwards = forwards.get_tracer(NAME)

    def begin(self, caller: TraceParent | None, timeline: Timeline) -> Trace:
        """Begin a request's span, as a part of its caller's trace."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        offset_ns = _offset_ns()
        span = self._requests.start_span(
            "request",
            Context() if caller is None else _remote(caller),
            trace.SpanKind.SERVER,
            start_time=offset_ns + round(timeline.began * 1e9),
        )
        context = span.get_span_context()
        if context.trace_flags.sampled:
            timeline.origin = context
        return Trace(
            trace.format_trace_id(context.trace_id),
            trace.format_span_id(context.span_id),
            context.trace_flags.sampled,
            caller is not None and caller.sampled,
            offset_ns,
            span,
        )

    def end(
        self, request: Trace, timeline: Timeline, *, name: str, failed: bool, attributes: Attributes
    ) -> None:
        """End a request's span, and make those of its stages. One that is not ended is not sent.

        Args:
            name: what was asked, from a bounded set.
            failed: it is the server's fault that there is no answer.
        """
        if not request.sampled:
            return
        from opentelemetry import trace

        ended = time.monotonic()
        span = request.span
        span.update_name(name)
        span.set_attributes({key: v for key, v in attributes.items() if v is not None})
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        parent = trace.set_span_in_context(span)
        for stage, began, until in timeline.passages(ended):
            links = []
            if stage == "forward" and timeline.batch is not None:
                links = [trace.Link(_context_of(timeline.batch))]
            child = self._requests.start_span(
                stage, parent, links=links, start_time=request.wall_ns(began)
            )
            child.end(request.wall_ns(until))
        span.end(request.wall_ns(ended))

    def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
        """Make the span of a forward, linked to the requests in it that are traced."""
        traced = {id(request): request for request in pictures if request.origin is not None}
        if not traced:
            return
        from opentelemetry import trace
        from opentelemetry.context import Context

        offset_ns = _offset_ns()
        span = self._forwards.start_span(
            "batch",
            Context(),  # a trace of its own: it belongs to several
            links=[trace.Link(_context_of(request.origin)) for request in traced.values()],
            attributes={"realfake.batch_size": len(pictures)},
            start_time=offset_ns + round(began * 1e9),
        )
        span.end(offset_ns + round(ended * 1e9))
        for request in traced.values():
            request.batch = span.get_span_context()

    def close(self) -> None:
        """Send what is left, within `FLUSH_S`, whether or not the collector answers."""
        # Its exporter may be in the middle of a try; its own limit does not reach there.
        thread = threading.Thread(target=self._processor.shutdown, name="spans", daemon=True)
        thread.start()
        thread.join(FLUSH_S)


def open_tracer(settings: TelemetrySettings, service: str) -> Tracer | None:
    """A tracer that sends to `telemetry.otlp_endpoint`; None where that is not set."""
    if settings.otlp_endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    complaints = _OnceAMinute()
    for name in _COMPLAINING:
        logging.getLogger(name).addFilter(complaints)
    exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    return Tracer(exporter, sample_ratio=settings.trace_sample_ratio, service=service)


class _OnceAMinute(logging.Filter):
    """The exporter's complaints as one plain line: theirs repeat, and quote its address."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 60
        record.msg, record.args = "the collector does not take spans; some may be lost", ()
        record.exc_info = record.exc_text = None
        return True


def _remote(caller: TraceParent) -> Context:
    from opentelemetry import trace

    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if caller.sampled else 0)
    span = trace.SpanContext(int(caller.trace_id, 16), int(caller.span_id, 16), True, flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(span))


def _offset_ns() -> int:
    return time.time_ns() - time.monotonic_ns()


def _context_of(origin: Any) -> SpanContext:
    context: SpanContext = origin
    return context
