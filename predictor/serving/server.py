"""kserve.ModelServer, assembled: two listeners, one data plane, one orderly life and end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kserve
import uvicorn
import uvloop

from predictor.errors import StartupError
from predictor.inference.classifier import Classifier, load_classifier
from predictor.security.api_keys import ApiKeys
from predictor.serving.connections import Connections
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.descriptors import allow_descriptors
from predictor.serving.edge import Edge
from predictor.serving.grpc import GrpcServer
from predictor.serving.lifecycle import Lifecycle, State
from predictor.serving.model import RealFakeModel
from predictor.serving.policy import Policy
from predictor.serving.rest import build_routes
from predictor.settings import Settings

log = logging.getLogger("predictor.server")

BACKLOG = 2048
"""Connections the kernel holds while the event loop is busy accepting others."""


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would close the port at the first SIGTERM."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RealFakeServer(kserve.ModelServer):  # type: ignore[misc]  # kserve ships no type information
    """One model on HTTP and gRPC.

    kserve's own REST and gRPC servers are not used (docs/decisions/0001): its registry, data
    plane and model are.
    """

    def __init__(self, settings: Settings) -> None:
        self.lifecycle = Lifecycle()
        super().__init__(
            http_port=settings.server.http_port,
            grpc_port=settings.server.grpc_port,
            enable_grpc=False,
            enable_latency_logging=False,
        )
        self.settings = settings
        self._model = RealFakeModel(settings.model.name, self.lifecycle)
        self.register_model(self._model)
        self.dataplane = RealFakeDataPlane(self.registered_models, self.lifecycle)
        self._stop = asyncio.Event()
        self._connections = Connections(settings.limits)

    def start(self, models: list[kserve.Model] | None = None) -> None:
        """Serve until told to stop; returns when drained.

        Args:
            models: none; kserve's signature. The one model comes from the settings.

        Raises:
            StartupError: a port is taken, the keys are unusable, or the bundle is refused.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        settings = self.settings
        keys = None
        if settings.auth.mode == "api_key" and settings.auth.keys_dir is not None:
            keys = ApiKeys.from_directory(settings.auth.keys_dir)
        policy = Policy(keys, settings.limits)
        self._take_signals()
        allow_descriptors(settings.limits.max_connections)
        listener = _listen(settings.server.host, settings.server.http_port)
        http = self._http_server(policy)
        grpc_server = GrpcServer(self.dataplane, policy, settings)
        grpc_port = grpc_server.bind(settings.server.host, settings.server.grpc_port)
        await grpc_server.start()
        http_task = asyncio.create_task(http.serve(sockets=[listener]))
        log.info(
            "listening",
            extra={
                "host": settings.server.host,
                "http_port": listener.getsockname()[1],
                "grpc_port": grpc_port,
            },
        )
        classifier: Classifier | None = None
        try:
            classifier = await self._load()
            await self._until_stopped(http_task)
        finally:
            await self._shut_down(http, http_task, grpc_server, classifier)

    def _http_server(self, policy: Policy) -> uvicorn.Server:
        settings = self.settings
        routes = build_routes(self.dataplane, settings)
        config = uvicorn.Config(
            Edge(routes, policy, self.lifecycle, settings.limits),
            http=self._connections.protocol,  # type: ignore[arg-type]  # it is called, no more
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.server.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(settings.server.drain_timeout_s)),
        )
        return _HttpServer(config)

    async def _load(self) -> Classifier | None:
        """Load the bundle in a thread while the ports answer not-ready.

        Returns:
            None when the process was told to stop meanwhile.
        """
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Classifier] = loop.create_future()

        def settle(result: Classifier | None, error: BaseException | None) -> None:
            if loaded.cancelled():
                return
            if error is not None:
                loaded.set_exception(error)
            elif result is not None:
                loaded.set_result(result)

        def work() -> None:
            try:
                result = load_classifier(self.settings)
            except BaseException as error:
                loop.call_soon_threadsafe(settle, None, error)
            else:
                loop.call_soon_threadsafe(settle, result, None)

        # A daemon: a stop during the load must not wait for it.
        threading.Thread(target=work, name="load", daemon=True).start()
        stopped = asyncio.create_task(self._stop.wait())
        either: set[asyncio.Future[Any]] = {loaded, stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not loaded.done():
            loaded.cancel()
            return None
        classifier = loaded.result()
        self._model.attach(classifier)
        self.lifecycle.enter(State.READY)
        log.info(
            "ready",
            extra={
                "model": self.settings.model.name,
                "model_version": classifier.manifest.version,
                "digest": classifier.manifest.digest,
                "engine": classifier.engine_name,
                "device": classifier.device,
            },
        )
        return classifier

    async def _until_stopped(self, http_task: asyncio.Task[None]) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stopped, http_task}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self.lifecycle.state is State.READY:
            self.lifecycle.enter(State.DRAINING)
            log.info("draining", extra={"delay_s": self.settings.server.drain_delay_s})
            await asyncio.sleep(self.settings.server.drain_delay_s)

    async def _shut_down(
        self,
        http: uvicorn.Server,
        http_task: asyncio.Task[None],
        grpc_server: GrpcServer,
        classifier: Classifier | None,
    ) -> None:
        """Close both listeners; what is in flight finishes, in parallel, under one deadline."""
        if self.lifecycle.state is not State.DRAINING:
            self.lifecycle.enter(State.STOPPED)
        http.should_exit = True
        await asyncio.gather(http_task, grpc_server.stop(self.settings.server.drain_timeout_s))
        if self.lifecycle.state is not State.STOPPED:
            self.lifecycle.enter(State.STOPPED)
        if classifier is not None:
            await classifier.close()
        log.info("stopped")

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGQUIT, _end_now, signal.SIGQUIT)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            _end_now(number)
        log.info("stopping", extra={"signal": number.name})
        self._stop.set()


def _end_now(number: signal.Signals) -> None:
    """End without draining. `os._exit`: a thread inside a forward would hold up `sys.exit`."""
    log.warning("ended without draining", extra={"signal": number.name})
    sys.stdout.flush()
    os._exit(128 + number)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port} (server.http_port): {os.strerror(error.errno or 0)}"
        ) from None


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; the exit code of the process.

    Raises:
        StartupError: it cannot serve.
    """
    RealFakeServer(settings).start()
    return 0
