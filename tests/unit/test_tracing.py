"""Which spans are made, of whom, and what they say; into memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from predictor.inference.timeline import Timeline
from predictor.telemetry.trace_context import TraceParent
from predictor.telemetry.tracing import Trace, Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = TraceParent(TRACE, SPAN, sampled=True)
SILENT = TraceParent(TRACE, SPAN, sampled=False)


class Memory:
    """A tracer, and what it has sent once it is closed."""

    def __init__(self, ratio: float) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer = Tracer(self._exporter, sample_ratio=ratio, service="realfake")

    def request(self, caller: TraceParent | None) -> tuple[Trace, Timeline]:
        timeline = Timeline(100.0)
        trace = self.tracer.begin(caller, timeline)
        timeline.enter("decode", 100.5)
        return trace, timeline

    def end(self, trace: Trace, timeline: Timeline, *, failed: bool = False) -> None:
        attributes = {"realfake.code": "OK", "realfake.key_id": None}
        self.tracer.end(trace, timeline, name="/infer", failed=failed, attributes=attributes)

    def sent(self) -> list[ReadableSpan]:
        self.tracer.close()
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def always() -> Iterator[Memory]:
    memory = Memory(1.0)
    yield memory
    memory.tracer.close()


@pytest.mark.parametrize(
    ("ratio", "caller", "sampled"),
    [(1, None, True), (0, None, False), (0, CALLER, True), (1, SILENT, False)],
)
def test_the_caller_decides_and_the_ratio_for_who_says_nothing(
    ratio: float, caller: TraceParent | None, sampled: bool
) -> None:
    memory = Memory(ratio)
    trace, timeline = memory.request(caller)
    assert trace.sampled == sampled
    assert trace.forced == (caller is CALLER)
    assert (trace.trace_id == TRACE) == (caller is not None)
    memory.end(trace, timeline)
    assert bool(memory.sent()) == sampled


def test_a_stage_that_was_not_reached_has_no_span(always: Memory) -> None:
    trace, timeline = always.request(CALLER)
    always.end(trace, timeline, failed=True)
    receive, decode, request = always.sent()
    assert [receive.name, decode.name, request.name] == ["receive", "decode", "/infer"]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == SPAN
    assert {span.context.trace_id for span in (receive, decode, request)} == {int(TRACE, 16)}
    assert not request.status.is_ok
    assert receive.status.is_ok
    assert request.attributes == {"realfake.code": "OK"}, "what is not known is left out"
    assert receive.end_time is not None
    assert receive.start_time is not None
    assert receive.end_time - receive.start_time == 500_000_000


def test_a_batch_is_one_span_however_many_pictures_a_request_has_in_it(always: Memory) -> None:
    (first, one), (second, two) = always.request(CALLER), always.request(None)
    _, untraced = always.request(SILENT)
    always.tracer.forwarded([one, one, two, untraced], 101.0, 101.25)
    one.enter("forward", 101.0)
    always.end(first, one)
    spans = always.sent()
    [batch] = [span for span in spans if span.name == "batch"]
    assert batch.parent is None
    assert batch.attributes == {"realfake.batch_size": 4}
    linked = {f"{link.context.span_id:016x}" for link in batch.links}
    assert linked == {first.span_id, second.span_id}
    [forward] = [span for span in spans if span.name == "forward"]
    assert [link.context.span_id for link in forward.links] == [batch.context.span_id]


def test_a_batch_of_untraced_requests_is_none(always: Memory) -> None:
    _, untraced = always.request(SILENT)
    always.tracer.forwarded([untraced], 101.0, 101.25)
    assert always.sent() == []


def test_a_request_that_is_not_ended_is_not_sent(always: Memory) -> None:
    always.request(CALLER)
    assert always.sent() == []
