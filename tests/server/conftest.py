"""Real server processes for the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.process import BUNDLE, ServerProcess

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
