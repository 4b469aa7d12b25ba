"""kserve.ModelServer, assembled: two listeners, one data plane, one orderly life and end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import kserve
import uvloop

from predictor.inference.classifier import Classifier, load_classifier
from predictor.inference.cpus import usable_cpus
from predictor.inference.resampling import RESIZER
from predictor.security.audit import open_audit
from predictor.security.certificates import CertificateStore
from predictor.security.key_store import KeyStore
from predictor.security.rate_limits import RateLimits
from predictor.serving.background import run_unless
from predictor.serving.connections import FEW, Connections
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.descriptors import allow_descriptors
from predictor.serving.edge import Edge
from predictor.serving.grpc import GrpcServer
from predictor.serving.intake import Intake
from predictor.serving.intake_http import IntakeHttp
from predictor.serving.interpreter import set_up_interpreter
from predictor.serving.lifecycle import Lifecycle, State
from predictor.serving.listening import HttpServer, listen
from predictor.serving.measured import measure_classifier, measure_process
from predictor.serving.model import RealFakeModel
from predictor.serving.policy import Policy
from predictor.serving.refusal_log import RefusalLog
from predictor.serving.rest import build_routes
from predictor.serving.routes import Routes
from predictor.serving.scraping import scrapeable
from predictor.serving.tls import CurrentContext
from predictor.serving.watchdog import device_lost
from predictor.settings import Settings
from predictor.telemetry.logging import LogLines, toggle_debug
from predictor.telemetry.recording import Metrics
from predictor.telemetry.tracing import open_tracer

log = logging.getLogger("predictor.server")

EXIT_DEVICE_LOST = 4
FAILED_LINGER_S = 2.0
"""For the refusals of what was in flight to reach their callers."""


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
        self._rate_limits = RateLimits.from_settings(settings.rate_limit, settings.model.name)
        self._audit = open_audit(settings.audit, LogLines())
        self._metrics = Metrics()
        self._refusal_log = RefusalLog()
        self._tracer = open_tracer(settings.telemetry, settings.model.name)
        self._model = RealFakeModel(
            settings.model.name, self.lifecycle, self._rate_limits, self._audit, self._metrics
        )
        self.register_model(self._model)
        self.dataplane = RealFakeDataPlane(self.registered_models, self.lifecycle)
        self._stop = asyncio.Event()

    def start(self, models: list[kserve.Model] | None = None) -> None:
        """Serve until told to stop; returns when drained. Does not return when the device is lost.

        Args:
            models: none; kserve's signature. The one model comes from the settings.

        Raises:
            StartupError: a port is taken, the keys are unusable, or the bundle is refused.
        """
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self._refusal_log.flush()
            if self._audit is not None:
                self._audit.close()
            if self._tracer is not None:
                self._tracer.close()

    async def _serve(self) -> None:
        settings = self.settings
        keys, certificates = _follow_keys(settings), _follow_certificates(settings)
        policy = Policy(
            *(keys, settings.limits, self._audit, self._metrics, self._tracer),
            refusal_log=self._refusal_log,
        )
        self._policy = policy
        measure_process(
            self._metrics,
            policy,
            keys,
            certificates,
            self._rate_limits,
            max_queue=settings.batching.max_queue,
        )
        self._take_signals()
        decoders = settings.decoding.workers or usable_cpus()
        allow_descriptors(settings.limits.max_connections, decoders)
        async with scrapeable(self._metrics, settings) as bound:
            await self._serve_requests(policy, certificates, bound)

    async def _serve_requests(
        self, policy: Policy, certificates: CertificateStore | None, bound: dict[str, int]
    ) -> None:
        """Open the ports, load the model, and serve it until the end.

        Args:
            bound: numbers of the ports that are open already.
        """
        settings = self.settings
        host, ports = settings.server.host, {"http_port": settings.server.http_port}
        routes = build_routes(self.dataplane, settings)
        connections = Connections(settings.limits)
        http = {"http_port": self._http_server(routes, policy, connections, certificates)}
        if settings.server.health_port is not None:
            ports["health_port"] = settings.server.health_port
            probes = Connections(settings.limits, FEW)
            public = Routes([route for route in routes.table if route.public])
            http["health_port"] = self._http_server(public, policy, probes, None)
        listeners = {name: listen(host, port, name) for name, port in ports.items()}
        grpc_server = GrpcServer(self.dataplane, policy, settings)
        bound |= {name: listener.getsockname()[1] for name, listener in listeners.items()}
        bound["grpc_port"] = grpc_server.bind(host, settings.server.grpc_port, certificates)
        await grpc_server.start()
        http_tasks = [
            asyncio.create_task(server.serve(sockets=[listeners[name]]))
            for name, server in http.items()
        ]
        log.info("listening", extra={"host": host, "tls": certificates is not None, **bound})
        classifier: Classifier | None = None
        guard: asyncio.Task[None] | None = None
        try:
            classifier = await self._load()
            if classifier is not None:
                guard = asyncio.create_task(self._guard(classifier))
            await self._until_stopped(http_tasks)
        finally:
            for server in http.values():
                server.should_exit = True
            await self._shut_down(http_tasks, grpc_server, classifier)
            if guard is not None:
                guard.cancel()

    def _http_server(
        self,
        routes: Routes,
        policy: Policy,
        connections: Connections,
        certificates: CertificateStore | None,
    ) -> HttpServer:
        settings = self.settings
        intake = Intake(routes, policy, self.lifecycle)
        edge = Edge(policy, self.lifecycle, settings.limits)
        protocol = partial(IntakeHttp, connections, intake)
        tls: dict[str, Any] = {}
        if certificates is not None:
            tls["ssl"] = CurrentContext(certificates)
            tls["ssl_handshake_timeout"] = settings.limits.receive_timeout_s
        return HttpServer(edge, protocol, settings.server, **tls)

    async def _load(self) -> Classifier | None:
        """Load the bundle in a thread while the ports answer not-ready.

        Returns:
            None when the process was told to stop meanwhile.
        """
        classifier = await run_unless(self._stop, self._read_bundle, "load")
        if classifier is None:
            return None
        self._model.attach(classifier)
        self._policy.admission = classifier.admission
        measure_classifier(self._metrics, classifier, self.settings.model.name)
        classifier.observe(*filter(None, (self._metrics, self._tracer)))
        self.lifecycle.enter(State.READY)
        log.info(
            "ready",
            extra={
                "model": self.settings.model.name,
                "model_version": classifier.manifest.version,
                "digest": classifier.manifest.digest,
                "engine": classifier.pipeline.engine,
                "device": classifier.pipeline.device,
                "resizer": RESIZER,
            },
        )
        return classifier

    def _read_bundle(self) -> Classifier:
        classifier = load_classifier(self.settings)
        set_up_interpreter()
        return classifier

    async def _guard(self, classifier: Classifier) -> None:
        """End the process, for the kubelet to restart, once its device is lost.

        Nothing that was asked is answered wrongly meanwhile, or left waiting: callers get
        NOT_READY and go to another replica.
        """
        limit = self.settings.batching.forward_timeout_s
        reason = await device_lost(classifier.pipeline, forward_timeout_s=limit)
        if self.lifecycle.state is State.STOPPED:  # its thread has ended, as it was told to
            return
        log.critical(f"failed: {reason}", extra={"exit_code": EXIT_DEVICE_LOST})
        self.lifecycle.enter(State.FAILED)
        classifier.pipeline.abandon()
        self._stop.set()
        asyncio.get_running_loop().call_later(FAILED_LINGER_S, self._end_failed)

    async def _until_stopped(self, http_tasks: Sequence[asyncio.Task[None]]) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stopped, *http_tasks}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self.lifecycle.state is State.READY:
            self.lifecycle.enter(State.DRAINING)
            log.info("draining", extra={"delay_s": self.settings.server.drain_delay_s})
            await asyncio.sleep(self.settings.server.drain_delay_s)

    async def _shut_down(
        self,
        http_tasks: Sequence[asyncio.Task[None]],
        grpc_server: GrpcServer,
        classifier: Classifier | None,
    ) -> None:
        """Close the listeners; what is in flight finishes, in parallel, under one deadline."""
        if self.lifecycle.state in (State.STARTING, State.READY):
            self.lifecycle.enter(State.STOPPED)
        await asyncio.gather(*http_tasks, grpc_server.stop(self.settings.server.drain_timeout_s))
        if self.lifecycle.state is State.FAILED:
            self._end_failed()
        if self.lifecycle.state is not State.STOPPED:
            self.lifecycle.enter(State.STOPPED)
        if classifier is not None:
            await self._close(classifier)
        if self._rate_limits is not None:
            await self._rate_limits.close()
        log.info("stopped")

    async def _close(self, classifier: Classifier) -> None:
        limit_s = self.settings.batching.forward_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await classifier.close()
        except TimeoutError:
            reason = f"a forward did not end within {limit_s:g} s of the stop"
            log.critical(f"failed: {reason}", extra={"exit_code": EXIT_DEVICE_LOST})
            self._end_failed()

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGQUIT, self._end_now, signal.SIGQUIT)
        usual = self.settings.telemetry.log_level
        loop.add_signal_handler(signal.SIGUSR2, toggle_debug, usual)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            self._end_now(number)
        log.info("stopping", extra={"signal": number.name})
        self._stop.set()

    def _end_now(self, number: signal.Signals) -> None:
        """End without draining."""
        log.warning("ended without draining", extra={"signal": number.name})
        self._exit(128 + number)

    def _end_failed(self) -> None:
        """End although the device thread may never return."""
        self._exit(EXIT_DEVICE_LOST)

    def _exit(self, code: int) -> None:
        """`os._exit`: a thread inside a forward would hold up `sys.exit`."""
        self._refusal_log.flush()
        if self._audit is not None:
            self._audit.close(timeout_s=1.0)
        sys.stdout.flush()
        os._exit(code)


def _follow_keys(settings: Settings) -> KeyStore | None:
    if settings.auth.mode == "none" or settings.auth.keys_dir is None:
        return None
    keys = KeyStore(settings.auth.keys_dir)
    keys.start()
    return keys


def _follow_certificates(settings: Settings) -> CertificateStore | None:
    certificates = CertificateStore.from_settings(settings.tls)
    if certificates is not None:
        certificates.start()
    return certificates


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; the exit code of the process.

    Raises:
        StartupError: it cannot serve.
    """
    RealFakeServer(settings).start()
    return 0
