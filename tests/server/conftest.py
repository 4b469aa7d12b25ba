"""Real server processes for the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.process import BUNDLE, ServerProcess
from tests.server.raw import INFER, PATIENCE_S, SMALL

StartServer = Callable[..., ServerProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The product itself with the debug bundle, ready; one for each test worker."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start further servers, which end with the test."""
    started: list[ServerProcess] = []

    def start(
        settings: dict[str, str] | None = None,
        *,
        stub: dict[str, str] | None = None,
        keys: dict[str, str] | None = None,
    ) -> ServerProcess:
        directory = tmp_path / f"server-{len(started)}"
        (directory / "keys").mkdir(parents=True)
        for name, key in (keys or {}).items():
            (directory / "keys" / name).write_text(key)
        if stub is None:
            process = ServerProcess(directory, settings)
        else:
            variables = {"STUB_LOG": str(directory / "batches.jsonl"), **(settings or {}), **stub}
            process = ServerProcess(directory, variables, ("-m", "tests.server.stub"))
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A sample photograph, as a file."""
    return sorted((BUNDLE / "samples").glob("photo*.jpg"))[0].read_bytes()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The stub with limits that are soon reached."""
    directory = tmp_path_factory.mktemp("small")
    settings = SMALL | {"STUB_LOG": str(directory / "batches.jsonl")}
    process = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0


@pytest.fixture
def others_are_served(small: ServerProcess, photo: bytes) -> Iterator[None]:
    """Whatever a test did, the next caller is answered, on both protocols."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb  # not beside kserve, which tests/sdk imports
    from tritonclient.grpc import service_pb2_grpc as pb_grpc

    yield
    with small.client() as client:
        answer = client.post(INFER, content=photo, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    with grpc.insecure_channel(small.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S).live
