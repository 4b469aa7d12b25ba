"""`/metrics`, on a port of its own.

In a thread and an event loop of its own: when the loop that serves is busy or hangs, the metrics
are what says so. It starts before the model loads and ends after the last answer.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from predictor.errors import MethodNotAllowed, NotFound, WireError
from predictor.serving.bounded_http import BoundedHttp
from predictor.serving.connections import FEW, Connections
from predictor.serving.error_answer import error_body, error_headers
from predictor.serving.http import JSON, Receive, Send
from predictor.serving.listening import HttpServer, listen
from predictor.serving.loop_lag import watch_lag
from predictor.settings import Settings
from predictor.telemetry.recording import Metrics

PATH: Final = "/metrics"
STOP_S: Final = 2.0


@asynccontextmanager
async def scrapeable(metrics: Metrics, settings: Settings) -> AsyncIterator[dict[str, int]]:
    """Serve the metrics, and measure the running loop, until the body ends.

    Yields:
        The port's number, by the name of its setting; nothing when it is switched off.

    Raises:
        StartupError: the port cannot be opened.
    """
    server = settings.server
    lag = asyncio.create_task(watch_lag(metrics.lagged))
    try:
        if not server.metrics_enabled:
            yield {}
            return
        listener = listen(server.host, server.metrics_port, "metrics_port")
        bound = {"metrics_port": listener.getsockname()[1]}
        thread = MetricsListener(listener, metrics.registry, settings)
        thread.start()
        try:
            yield bound
        finally:
            await thread.stop()
    finally:
        lag.cancel()


class MetricsListener:
    """Serves a registry on a socket until it is stopped."""

    def __init__(
        self, listener: socket.socket, registry: CollectorRegistry, settings: Settings
    ) -> None:
        protocol = partial(BoundedHttp, Connections(settings.limits, FEW))
        self._listener = listener
        self._server = HttpServer(_Scrape(registry), protocol, settings.server)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Close the port. A scrape on its way gets a moment, no more."""
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join, STOP_S)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._server.serve(sockets=[self._listener]))


class _Scrape:
    """The ASGI application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        status, content_type, headers = 200, CONTENT_TYPE_PLAIN_0_0_4, {}
        try:
            _check(scope)
            if _wants_openmetrics(scope):
                content_type = openmetrics.CONTENT_TYPE_LATEST
                body = _as_openmetrics(self._registry)
            else:
                body = generate_latest(self._registry)
        except WireError as error:
            status, content_type = error.http_status, JSON
            headers = {"connection": "close", **error_headers(error, ("GET",))}
            body = error_body(error, uuid.uuid4().hex)
        headers |= {"content-type": content_type, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _as_openmetrics(registry: CollectorRegistry) -> bytes:
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # bare
    return text


def _check(scope: Any) -> None:
    if scope["path"] != PATH:
        raise NotFound(f"this port has {PATH} only")
    if scope["method"] not in ("GET", "HEAD"):
        raise MethodNotAllowed("use GET here")


def _wants_openmetrics(scope: Any) -> bool:
    # Not prometheus_client's negotiation: it fails on a version that is no number.
    return any(
        kind.partition(b";")[0].strip().lower() == b"application/openmetrics-text"
        for name, value in scope["headers"]
        if name == b"accept"
        for kind in value.split(b",")
    )
