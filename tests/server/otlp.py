"""A collector of traces: OTLP over HTTP, into memory."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.server.process import eventually


@dataclass(frozen=True)
class Received:
    """One span. Ids are in hexadecimal digits; `parent` is empty at the root."""

    name: str
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: frozenset[tuple[str, str]]


@dataclass
class Collector:
    url: str
    paths: set[str] = field(default_factory=set)
    _spans: list[Received] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, path: str, message: ExportTraceServiceRequest) -> None:
        with self._lock:
            self.paths.add(path)
            self._spans += [
                _received(span, _values(resource.resource.attributes))
                for resource in message.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def spans(self) -> list[Received]:
        with self._lock:
            return list(self._spans)

    def request(self, request_id: str) -> Received:
        """The span of a request, once it is here."""
        return eventually(
            lambda: next(
                (s for s in self.spans() if s.attributes.get("realfake.request_id") == request_id),
                None,
            ),
            30,
            f"the span of {request_id}",
        )

    def children(self, parent: Received) -> dict[str, Received]:
        return {span.name: span for span in self.spans() if span.parent == parent.id}


def _values(attributes: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in attributes
    }


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _values(span.attributes),
        resource,
        frozenset((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        collector = Collector(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            listener.shutdown()
            thread.join()
