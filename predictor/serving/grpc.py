"""The Open Inference Protocol over gRPC, on a `grpc.aio` server of our own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from predictor.errors import DeadlineExceeded, InvalidRequest, StartupError
from predictor.inference.pictures import Classification
from predictor.protocol import v2
from predictor.protocol.messages import InputTensor, ModelDescription, OutputTensor
from predictor.security.certificates import CertificateStore
from predictor.serving.call import call_var
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.grpc_edge import GrpcEdge
from predictor.serving.grpc_reading import MessageReader, connection_options
from predictor.serving.health import V2_SERVICE, HealthServicer
from predictor.serving.model import Job, WireRequest
from predictor.serving.policy import LATE, Policy
from predictor.serving.tls import grpc_credentials
from predictor.settings import Settings

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}


class InferenceServicer:
    """Translates between protobuf messages and the data plane; holds no state of its own."""

    def __init__(self, plane: RealFakeDataPlane, max_pictures: int) -> None:
        self._plane = plane
        self._max_pictures = max_pictures

    async def ServerLive(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=self._plane.lifecycle.is_live)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=await self._plane.ready())

    async def ModelReady(self, request: Any, context: Context) -> Any:
        model = self._plane.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=await model.healthy())

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        return pb.ServerMetadataResponse(**self._plane.metadata())

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        metadata = await self._plane.model_metadata(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=metadata["name"],
            versions=metadata["versions"],
            platform=metadata["platform"],
            inputs=[_tensor_metadata(tensor, entry) for entry in metadata["inputs"]],
            outputs=[_tensor_metadata(tensor, entry) for entry in metadata["outputs"]],
        )

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        call = call_var.get()
        wire = WireRequest(
            parse=partial(self._parse, request),
            size=call.message_bytes,  # gRPC's library would write it all down to count
            arrived=call.timeline.began,
            deadline=call.deadline,
            caller=call.key_id,
        )
        try:
            async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
                return await self._plane.answer(request.model_name, request.model_version, wire)
        except TimeoutError:
            raise DeadlineExceeded(LATE) from None

    def _parse(self, message: Any, model: ModelDescription) -> Job[Any]:
        call = v2.decode_tensors(
            message.id,
            _inputs(message),
            [
                v2.requested_output(output.name, _parameters(output.parameters), index, binary=True)
                for index, output in enumerate(message.outputs)
            ],
            _parameters(message.parameters),
            model,
            max_pictures=self._max_pictures,
        )
        raw = len(message.raw_input_contents) > 0  # raw in, raw out, as kserve and Triton do

        def encode(results: Sequence[Classification]) -> Any:
            outputs = v2.output_tensors(call, results, model)
            response = pb.ModelInferResponse(
                model_name=model.name, model_version=model.version, id=call.id
            )
            for output in outputs:
                _add_output(response, output, raw=raw)
            return response

        return Job(call.pictures, encode, call.timeout_s)


def _inputs(message: Any) -> list[InputTensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents: {len(raw)} entries for {len(message.inputs)} inputs; "
            "send one for each"
        )
    tensors = []
    for index, tensor in enumerate(message.inputs):
        place = f"inputs[{index}]"
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(f"{place}: has contents and raw_input_contents; send one of them")
        data: Any = raw[index] if raw else _typed_contents(tensor, place)
        tensors.append(
            InputTensor(
                tensor.name,
                tensor.datatype,
                tuple(tensor.shape),
                data,
                _parameters(tensor.parameters),
            )
        )
    return tensors


def _typed_contents(tensor: Any, place: str) -> list[Any]:
    """Raises: InvalidRequest: they are in a field of another datatype."""
    field = CONTENTS.get(tensor.datatype)
    if field is None:  # which is told of the datatype
        return []
    values = list(getattr(tensor.contents, field))
    if not values and (others := tensor.contents.ListFields()):
        raise InvalidRequest(
            f"{place}.contents: has {others[0][0].name}; {tensor.datatype} goes into {field}, or "
            "into raw_input_contents"
        )
    return values


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Protobuf's map of one-ofs as plain values; a parameter without a value is None."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, choice) if choice else None
    return found


def _add_output(response: Any, output: OutputTensor, *, raw: bool) -> None:
    tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
    if raw:
        response.raw_output_contents.append(output.raw())
    else:
        getattr(tensor.contents, CONTENTS[output.datatype]).extend(output.values())


def _tensor_metadata(kind: Any, entry: Mapping[str, Any]) -> Any:
    return kind(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])


class GrpcServer:
    """The listener: what it serves, where, and how it ends.

    Methods that are not on `InferenceServicer` (repository load and unload) do not exist:
    callers get UNIMPLEMENTED from gRPC itself.
    """

    def __init__(self, plane: RealFakeDataPlane, policy: Policy, settings: Settings) -> None:
        limits = settings.limits
        self._server = grpc.aio.server(
            interceptors=(GrpcEdge(policy, MessageReader(limits, policy.bytes)),),
            options=connection_options(limits, settings.server.keep_alive_s),
        )
        servicer = InferenceServicer(plane, limits.max_pictures)
        self._server.add_generic_rpc_handlers([_v2_handlers(servicer)])
        # They keep their connections open: most are left to callers.
        self._health = HealthServicer(plane, max(1, limits.max_connections // 4))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def bind(self, host: str, port: int, certificates: CertificateStore | None = None) -> int:
        """Open the port, with TLS given certificates, and return its number (a free one for 0).

        Raises:
            StartupError: it is taken, or not ours to open.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificates is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, grpc_credentials(certificates))
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise StartupError(
                f"cannot listen on {address} (server.grpc_port): is the port in use?"
            )
        return int(bound)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait up to `grace_s` for the ones in flight, then cut them off."""
        self._health.end_watches()
        await self._server.stop(grace_s)


def _v2_handlers(servicer: InferenceServicer) -> grpc.GenericRpcHandler[Any, Any]:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=getattr(pb, method.input_type.name).FromString,
            response_serializer=getattr(pb, method.output_type.name).SerializeToString,
        )
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    return grpc.method_handlers_generic_handler(V2_SERVICE, handlers)
