"""A gRPC client that sends one ModelInfer again and again, already serialised."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray

from hack.load.samples import BROKEN, UNANSWERED, Answer

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
RESPONSE_LIMIT_S: Final = 30.0
_DETAILS: Final = "grpc-status-details-bin"


class GrpcCaller:
    """Channels to one server, taken in turns.

    Args:
        target: `host:port`.
        request: a serialised ModelInferRequest.
        tls: with the certificates that this machine trusts, or those of `ca_file` (PEM).
        authority: the name to ask for, where it is not the host's.
        channels: connections. A server bounds the calls on one, and a Service of Kubernetes
            sends all calls on one to the same replica.
    """

    def __init__(
        self,
        target: str,
        request: bytes,
        *,
        api_key: str | None = None,
        deadline_s: float | None = None,
        tls: bool = False,
        ca_file: str | None = None,
        authority: str | None = None,
        channels: int = 4,
    ) -> None:
        self._request = request
        self._metadata = [("x-api-key", api_key)] if api_key else []
        self._deadline_s = deadline_s
        options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
        if authority:
            options.append(("grpc.default_authority", authority))
        self._channels: list[Any] = []  # its stubs know neither missing serialisers nor defaults
        for _ in range(channels):
            if tls:
                root = Path(ca_file).read_bytes() if ca_file else None
                credentials = grpc.ssl_channel_credentials(root)
                self._channels.append(grpc.aio.secure_channel(target, credentials, options))
            else:
                self._channels.append(grpc.aio.insecure_channel(target, options))
        # Without serialisers: bytes in, bytes out.
        self._turns = itertools.cycle([channel.unary_unary(METHOD) for channel in self._channels])

    async def ask(self) -> Answer:
        """See `Caller.ask`. No deadline is sent where none was given."""
        call = next(self._turns)(self._request, metadata=self._metadata, timeout=self._deadline_s)
        try:
            async with asyncio.timeout(RESPONSE_LIMIT_S):
                return Answer("OK", None, await call)
        except TimeoutError:
            return Answer(UNANSWERED)
        except grpc.aio.AioRpcError as error:
            return _refused(error)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


def _refused(error: grpc.aio.AioRpcError) -> Answer:
    # Where no connection can be made, the library says UNAVAILABLE too; only its words differ.
    if (error.details() or "").startswith("failed to connect"):
        return Answer(BROKEN)
    trailing: Any = error.trailing_metadata()
    details = dict(trailing or ()).get(_DETAILS)
    if not isinstance(details, bytes):
        return Answer(error.code().name)
    for detail in status_pb2.Status.FromString(details).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            delay = retry.retry_delay
            return Answer(error.code().name, delay.seconds + delay.nanos / 1e9)
    return Answer(error.code().name)


def infer(model: str, picture: bytes, *, raw: bool = True) -> bytes:
    """A serialised ModelInferRequest with one picture.

    Args:
        raw: in `raw_input_contents`; else in the tensor's own `contents`.
    """
    from tritonclient.grpc import service_pb2 as pb  # not beside kserve's own protobuf classes

    request = pb.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    if raw:
        request.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    else:
        tensor.contents.bytes_contents.append(picture)
    serialised: bytes = request.SerializeToString()
    return serialised


def infer_pixels(model: str, pixels: NDArray[np.uint8]) -> bytes:
    """A serialised ModelInferRequest with decoded pictures, uint8 (N, H, W, 3)."""
    from tritonclient.grpc import service_pb2 as pb  # see above

    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    serialised: bytes = request.SerializeToString()
    return serialised
