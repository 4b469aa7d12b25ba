"""The servers that are compared, and by which routes each is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.bench import bodies
from hack.load.grpc_caller import GrpcCaller, infer
from hack.load.http_caller import HttpCaller
from hack.load.samples import Caller
from hack.load.server import ROOT, serve_command

PEERS: Final = ROOT / "hack" / "bench" / "peers"
ENVIRONMENTS: Final = ROOT / ".run" / "bench"
OURS: Final = "realfake"
RAW: Final = "raw body"
GRPC: Final = "gRPC"
OBEYING: Final = ", obeying Retry-After"
OBEYING_MS: Final = ", obeying Retry-After-Ms"


@dataclass(frozen=True, slots=True)
class Task:
    """What a server is to serve, and where it listens.

    Attributes:
        keys: a directory with its API key, for those that ask for one.
    """

    bundle: Path
    engine: str
    port: int
    grpc_port: int
    spare_port: int
    cores: int
    keys: Path
    api_key: str


@dataclass(frozen=True, slots=True)
class Route:
    """One way to ask a server.

    Attributes:
        caller: for a task and a picture.
        read: the probability of fake in an answer's body.
        deadline_s: what each request is given; answers count as good within it.
        obeys: a refused caller waits as long as it is told to.
    """

    name: str
    caller: Callable[[Task, bytes], Caller]
    read: Callable[[bytes], float]
    deadline_s: float | None = None
    obeys: bool = False


@dataclass(frozen=True, slots=True)
class Contestant:
    """Attributes: packages: whose versions the report names; the first is the server's own."""

    name: str
    title: str
    command: Callable[[Task], Sequence[str]]
    routes: tuple[Route, ...]
    packages: tuple[str, ...]
    python: Path


def environment(task: Task) -> Mapping[str, str]:
    """What every server finds in its environment."""
    peer = {
        "PYTHONPATH": str(PEERS),
        "PEER_BUNDLE": str(task.bundle),
        "PEER_ENGINE": task.engine,
        "PEER_PORT": str(task.port),
        "PEER_GRPC_PORT": str(task.grpc_port),
        "PEER_CORES": str(task.cores),
    }
    mlserver = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(task.port),
        "MLSERVER_GRPC_PORT": str(task.grpc_port),
        "MLSERVER_METRICS_PORT": str(task.spare_port),
        "MLSERVER_PARALLEL_WORKERS": str(task.cores),
        "MLSERVER_METRICS_DIR": str(ENVIRONMENTS / "mlserver-metrics"),
    }
    bentoml = {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(ENVIRONMENTS / "bentoml-home")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALFAKE_")}
    return kept | peer | mlserver | bentoml


def _http(name: str, request: Callable[[bytes], bytes], read: Callable[[bytes], float]) -> Route:
    def caller(task: Task, picture: bytes) -> Caller:
        return HttpCaller(f"http://127.0.0.1:{task.port}", request(picture))

    return Route(name, caller, read)


def _grpc(model: str) -> Route:
    def caller(task: Task, picture: bytes) -> Caller:
        request = infer(model, picture, raw=False)
        return GrpcCaller(f"127.0.0.1:{task.grpc_port}", request)

    return Route(GRPC, caller, bodies.in_grpc)


def _ours_http(deadline_s: float | None = None, *, obeying: str = "") -> Route:
    def caller(task: Task, picture: bytes) -> Caller:
        headers = {"X-API-Key": task.api_key}
        if deadline_s is not None:
            headers["X-Request-Timeout-Ms"] = f"{deadline_s * 1000:.0f}"
        request = bodies.as_is(f"/v2/models/{OURS}/infer", picture, headers)
        url = f"http://127.0.0.1:{task.port}"
        return HttpCaller(url, request, milliseconds=obeying == OBEYING_MS)

    return Route(RAW + obeying, caller, bodies.in_v2, deadline_s, bool(obeying))


def _ours_grpc(deadline_s: float | None = None, *, obeying: str = "") -> Route:
    def caller(task: Task, picture: bytes) -> Caller:
        return GrpcCaller(
            f"127.0.0.1:{task.grpc_port}",
            infer(OURS, picture),
            api_key=task.api_key,
            deadline_s=deadline_s,
        )

    return Route(GRPC + obeying, caller, bodies.in_grpc, deadline_s, bool(obeying))


def ours(deadline_s: float) -> Contestant:
    """The product with its default settings: ONNX Runtime on a CPU, API keys on."""

    def command(task: Task) -> Sequence[str]:
        return serve_command(task.bundle, task.port, task.grpc_port, task.keys)

    return Contestant(
        OURS,
        "realfake",
        command,
        (
            *(_ours_http(), _ours_grpc()),
            *(_ours_http(deadline_s), _ours_grpc(deadline_s)),
            *(_ours_http(deadline_s, obeying=each) for each in (OBEYING, OBEYING_MS)),
            _ours_grpc(deadline_s, obeying=OBEYING),
        ),
        ("realfake", "kserve", "uvicorn", "grpcio", "cykooz-resizer"),
        Path(sys.executable),
    )


def _peer(
    name: str, title: str, routes: tuple[Route, ...], packages: tuple[str, ...], *command: str
) -> Contestant:
    programs, folder = ENVIRONMENTS / name / "bin", PEERS / name

    def started(task: Task) -> Sequence[str]:
        program, *rest = command or ("python", str(folder / "serve.py"))
        known = {"{folder}": str(folder), "{port}": str(task.port)}
        return [str(programs / program), *(known.get(word, word) for word in rest)]

    return Contestant(name, title, started, routes, packages, programs / "python")


PEER_CONTESTANTS: Final = (
    _peer(
        "kserve_naive",
        "kserve.Model as in its tutorials",
        (
            _http(
                "V1 JSON",
                lambda p: bodies.v1("/v1/models/detector:predict", p),
                bodies.in_predictions,
            ),
            _grpc("detector"),
        ),
        ("kserve", "uvicorn", "grpcio"),
    ),
    _peer(
        "fastapi_threads",
        "FastAPI and 4 threads",
        (_http("multipart", lambda p: bodies.multipart("/infer", "file", p), bodies.in_object),),
        ("fastapi", "uvicorn"),
    ),
    _peer(
        "mlserver",
        "MLServer, adaptive batching",
        (
            _http("V2 JSON", lambda p: bodies.v2("/v2/models/detector/infer", p), bodies.in_v2),
            _grpc("detector"),
        ),
        ("mlserver", "uvicorn", "grpcio"),
        *("mlserver", "start", "{folder}"),
    ),
    _peer(
        "litserve",
        "LitServe, batches of 16",
        (_http("JSON", lambda p: bodies.litserve("/predict", p), bodies.in_object),),
        ("litserve", "uvicorn"),
    ),
    _peer(
        "bentoml",
        "BentoML, adaptive batching",
        (
            _http(
                "multipart", lambda p: bodies.multipart("/classify", "pictures", p), bodies.in_list
            ),
        ),
        ("bentoml", "uvicorn"),
        *("bentoml", "serve", "service:Detector", "--working-dir", "{folder}"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ),
)
