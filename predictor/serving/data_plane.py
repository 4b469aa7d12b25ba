"""kserve's DataPlane with honest readiness, versions, and typed errors."""

from __future__ import annotations

from typing import Any

import kserve
from kserve.protocol.dataplane import DataPlane

from predictor.errors import NotFound, NotReady
from predictor.protocol import v2
from predictor.serving.lifecycle import Lifecycle
from predictor.serving.model import RealFakeModel, ReplyT, WireRequest


class RealFakeDataPlane(DataPlane):  # type: ignore[misc]  # kserve ships no type information
    """What REST and gRPC both ask. The only place that says ready, not found, or go on."""

    def __init__(self, model_registry: kserve.ModelRepository, lifecycle: Lifecycle) -> None:
        super().__init__(model_registry=model_registry)
        self.lifecycle = lifecycle

    def metadata(self) -> dict[str, Any]:
        return v2.server_metadata()

    async def ready(self) -> bool:
        """Whether new traffic should come here: every model loaded, warmed and not draining."""
        models = self.model_registry.get_models().values()
        return bool(models) and all([await model.healthy() for model in models])

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        return await self.find(model_name).healthy()

    async def model_metadata(self, model_name: str, version: str | None = None) -> dict[str, Any]:
        return v2.metadata(self.find(model_name, version).description)

    def find(self, name: str, version: str | None = None) -> RealFakeModel:
        """Look up a model, and the version of it where one is named.

        Raises:
            NotFound: no such model or version here.
            NotReady: a version was asked for while the bundle, which knows it, still loads.
        """
        model = self.model_registry.get_model(name)
        if not isinstance(model, RealFakeModel):
            served = ", ".join(sorted(self.model_registry.get_models()))
            raise NotFound(f"no such model; this server has: {served}")
        if version and version != model.description.version:
            raise NotFound(f"no such version; this server has: {model.description.version}")
        return model

    async def get_model(self, name: str) -> RealFakeModel:
        """kserve's own would call `load()` on the event loop and then predict unready."""
        return self.find(name)

    async def answer(self, name: str, version: str | None, request: WireRequest[ReplyT]) -> ReplyT:
        """Run one inference through the model's preprocess, predict and postprocess.

        Raises:
            WireError: every failure a caller can be told about.
        """
        if not self.lifecycle.is_serving:
            raise NotReady(f"not ready: {self.lifecycle.state.value}; try again shortly")
        self.find(name, version)
        reply: ReplyT
        reply, _ = await self.infer(name, request)
        return reply
