"""What we rely on in kserve 0.21, name by name: an upgrade fails here first."""

from __future__ import annotations

import inspect
from typing import Any

import kserve
import pytest
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.errors import NotFound, NotReady
from predictor.inference.pictures import Pixels
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.lifecycle import Lifecycle, State
from predictor.serving.model import Job, RealFakeModel, WireRequest


class Steps(kserve.Model):  # type: ignore[misc]
    """Records how kserve drives a model."""

    def __init__(self) -> None:
        super().__init__("steps")
        self.steps: list[str] = []
        self.ready = True

    async def preprocess(self, payload: Any, headers: Any = None) -> Any:
        self.steps.append("preprocess")
        return payload

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        self.steps.append("predict")
        return payload

    async def postprocess(self, result: Any, headers: Any = None) -> Any:
        self.steps.append("postprocess")
        return result


async def test_data_plane_infer_runs_the_three_steps_on_any_object() -> None:
    registry = kserve.ModelRepository()
    model = Steps()
    registry.update(model)
    payload = object()
    answer, headers = await DataPlane(model_registry=registry).infer("steps", payload)
    assert answer is payload
    assert headers == {}
    assert model.steps == ["preprocess", "predict", "postprocess"]


def test_model_server_can_be_built_without_its_own_listeners() -> None:
    parameters = inspect.signature(kserve.ModelServer.__init__).parameters
    assert {"http_port", "grpc_port", "enable_grpc", "enable_latency_logging"} <= set(parameters)


def test_model_server_leaves_logging_alone_once_it_is_configured() -> None:
    """`configure_logging` puts a handler on kserve's logger, which is what it looks for."""
    source = inspect.getsource(kserve.ModelServer.__init__)
    assert "if len(logger.handlers) == 0" in source


def test_protobuf_service_has_the_methods_we_serve_and_the_two_we_refuse() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {method.name for method in service.methods} == {
        *("ServerLive", "ServerReady", "ModelReady"),
        *("ServerMetadata", "ModelMetadata", "ModelInfer"),
        *("RepositoryModelLoad", "RepositoryModelUnload"),
    }


def plane() -> RealFakeDataPlane:
    lifecycle = Lifecycle()
    registry = kserve.ModelRepository()
    registry.update(RealFakeModel("realfake", lifecycle))
    return RealFakeDataPlane(registry, lifecycle)


async def test_a_model_that_is_not_loaded_is_not_ready_and_is_not_run() -> None:
    """kserve's own data plane would call `load()` and predict."""
    subject = plane()
    request: WireRequest[Any] = WireRequest(
        lambda model: Job((Pixels.__new__(Pixels),), lambda results: None), 0, 0.0, 0.0
    )
    assert not await subject.ready()
    assert not await subject.model_ready("realfake")
    with pytest.raises(NotReady):
        await subject.answer("realfake", None, request)


async def test_no_model_is_not_ready() -> None:
    assert not await RealFakeDataPlane(kserve.ModelRepository(), Lifecycle()).ready()


def test_unknown_models_are_not_found_and_the_name_is_not_echoed() -> None:
    with pytest.raises(NotFound) as refused:
        plane().find("other\nforged")
    assert "forged" not in refused.value.message
    assert "realfake" in refused.value.message


def test_the_states_only_go_forward() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter(State.READY)
    lifecycle.enter(State.DRAINING)
    with pytest.raises(ValueError, match="cannot go from draining to ready"):
        lifecycle.enter(State.READY)
