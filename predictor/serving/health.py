"""`grpc.health.v1.Health`, true to the lifecycle.

grpcio-health-checking's own servicer keeps `Watch` streams open while the server stops, so
that a stop waits out its whole grace for one watching client; this one ends them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictor.errors import Overloaded
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.lifecycle import State

OVERALL = ""
LOOK_AGAIN_S: Final = 1.0
FEWEST: Final = 8
"""Watches a connection may always have: a client's load balancer has one, and a proxy has many
clients."""
V2_SERVICE = "inference.GRPCInferenceService"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped package
    """Answers for the server (``""``), the V2 service, and each model by name.

    Args:
        max_watches: most `Watch` streams, which need no key and last for ever; more are refused,
            and so are more than a quarter of them on one connection.
    """

    def __init__(self, plane: RealFakeDataPlane, max_watches: int) -> None:
        self._plane = plane
        self._watches: Counter[str] = Counter()  # by connection
        self._max_watches = max_watches
        self._changed = asyncio.Event()
        self._ended = False
        plane.lifecycle.on_change(self._wake)

    def end_watches(self) -> None:
        """Finish every `Watch` stream, so that they do not hold up the server's stop."""
        self._ended = True
        self._changed.set()

    def _wake(self, state: State) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _status(self, service: str) -> int | None:
        if service in (OVERALL, V2_SERVICE):
            ready = await self._plane.ready()
        elif service in self._plane.model_registry.get_models():
            ready = await self._plane.model_ready(service)
        else:
            return None
        return int(_SERVING if ready else _NOT_SERVING)

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        status = await self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND: no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        peer = context.peer()
        watches = self._watches
        share = max(FEWEST, self._max_watches // 4)
        if watches.total() >= self._max_watches or watches[peer] >= share:
            raise Overloaded("too many watches; retry later, or use Check")
        watches[peer] += 1
        try:
            last: int | None = None
            while not self._ended:
                changed = self._changed
                status = await self._status(request.service)
                current = int(_UNKNOWN) if status is None else status
                if current != last:
                    last = current
                    yield health_pb2.HealthCheckResponse(status=current)
                # Readiness hangs on more than the lifecycle: on the audit log, for one.
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_AGAIN_S)
        finally:
            watches[peer] -= 1
            if not watches[peer]:
                del watches[peer]
