"""One bundle by both engines, as real processes: the same answers, and torch only where used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.process import ServerProcess
from tests.server.test_clients import ROUTES

TOLERANCE = 1e-4
"""What a bundle's graph may differ from its weights by."""
BY_ENGINE = ("onnx", "torch")


@pytest.fixture(scope="module", params=BY_ENGINE)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    settings = {"REALFAKE_MODEL__ENGINE": request.param, "REALFAKE_MODEL__DEVICE": "cpu"}
    process = ServerProcess(tmp_path_factory.mktemp(str(request.param)), settings)
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0


def engine_of(server: ServerProcess) -> str:
    text = httpx.get(f"http://127.0.0.1:{server.listening['metrics_port']}/metrics").text
    [info] = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "inference_model_info"
    ]
    return info.labels["engine"]


def mapped(server: ServerProcess) -> str:
    """Every library in the memory of the server and its children."""
    pids = [server.process.pid]
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += map(int, children.read_text().split())
    return "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "score"])
def test_an_engine_is_no_other_answer(
    route: str, pair: ServerProcess, server: ServerProcess, photo: bytes
) -> None:
    """Beside the server as it is by default, on every way in."""
    assert ROUTES[route](pair, photo) == pytest.approx(ROUTES[route](server, photo), abs=TOLERANCE)


def test_the_engine_that_was_asked_for_serves(
    pair: ServerProcess, request: pytest.FixtureRequest
) -> None:
    asked = request.node.callspec.params["pair"]
    assert engine_of(pair) == asked
    assert ("libtorch" in mapped(pair)) == (asked == "torch")


def test_a_cpu_replica_loads_neither_torch_nor_timm(server: ServerProcess) -> None:
    """They would be most of its memory and of its start."""
    assert engine_of(server) == "onnx"
    libraries = mapped(server)
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries
