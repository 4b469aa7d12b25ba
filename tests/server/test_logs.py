"""The log of a real process, as its operator reads it."""

from __future__ import annotations

import signal
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.pictures import jpeg
from tests.server.conftest import StartServer
from tests.server.process import ServerProcess, eventually
from tests.server.raw import INFER

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def line_of(server: ServerProcess, request_id: str) -> dict[str, Any] | None:
    lines = [line for line in server.log_lines() if line.get("request_id") == request_id]
    return lines[-1] if lines else None


def written(server: ServerProcess, request_id: str) -> dict[str, Any]:
    return eventually(partial(line_of, server, request_id), 30, f"the line of {request_id}")


def probed(server: ServerProcess) -> str:
    """Ask for liveness; what its line would be found by."""
    answer = httpx.get(f"{server.url}/v2/health/live")
    assert answer.status_code == 200
    return answer.headers["x-request-id"]


def test_a_signal_shows_debug_lines_and_another_hides_them(start_server: StartServer) -> None:
    server = start_server(stub={}).wait_ready()
    calm = probed(server)
    server.signal(signal.SIGUSR2)
    assert server.wait_for_log("log level changed")["log_level"] == "DEBUG"
    shown = probed(server)
    written(server, shown)
    server.signal(signal.SIGUSR2)
    eventually(
        lambda: server.log_text().count("log level changed") == 2 or None, 30, "the way back"
    )
    calm_again = probed(server)
    with server.client() as client:
        last = client.get("/v2").headers["x-request-id"]
    written(server, last)
    assert line_of(server, calm) is None
    assert line_of(server, calm_again) is None
    assert server.stop() == 0


def test_lines_name_the_callers_trace_on_both_protocols(start_server: StartServer) -> None:
    server = start_server(stub={}).wait_ready()
    with server.client() as client:
        named = client.get("/v2", headers={"traceparent": TRACEPARENT}).headers["x-request-id"]
        wrong = client.get("/v2", headers={"traceparent": "00-x"}).headers["x-request-id"]
    with grpc.insecure_channel(server.grpc) as channel:
        metadata = [("x-api-key", server.api_key), ("traceparent", TRACEPARENT)]
        rpc = [*metadata, ("x-request-id", "by-grpc")]
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=rpc, timeout=30)
    for identity in (named, "by-grpc"):
        assert written(server, identity)["trace_id"] == TRACE
    assert "trace_id" not in written(server, wrong)


@pytest.mark.parametrize("name", ["severity", "log.level"])
def test_the_level_is_called_what_the_collector_calls_it(
    name: str, start_server: StartServer
) -> None:
    server = start_server({"REALFAKE_TELEMETRY__LOG_SEVERITY_FIELD": name}, stub={}).wait_ready()
    assert server.stop() == 0
    for line in server.log_lines():
        assert line[name] in ("INFO", "WARNING")
        assert "level" not in line


def test_why_it_did_not_start_is_called_what_the_collector_calls_it(
    start_server: StartServer, tmp_path: Path
) -> None:
    settings = {
        "REALFAKE_TELEMETRY__LOG_SEVERITY_FIELD": "severity",
        "REALFAKE_MODEL__PATH": str(tmp_path / "none"),
    }
    server = start_server(settings)
    assert server.wait(60) == 3
    assert [line["severity"] for line in server.log_lines()][-1] == "CRITICAL"


@pytest.mark.parametrize(
    ("method", "path", "key", "settings", "status", "code"),
    [
        ("POST", INFER, None, {"REALFAKE_RATE_LIMIT__RATE": "1/day"}, 429, "RATE_LIMITED"),
        ("POST", INFER, "wrong" * 8, {}, 401, "UNAUTHENTICATED"),
        ("GET", "/v2/models/none/ready", "wrong" * 8, {}, 404, "NOT_FOUND"),
    ],
    ids=["known", "stranger", "stranger on a public route"],
)
def test_a_flood_of_refusals_is_logged_by_number(
    *,
    method: str,
    path: str,
    key: str | None,
    settings: dict[str, str],
    status: int,
    code: str,
    start_server: StartServer,
) -> None:
    """Each is in a line of its own or in a count, and the lines stay few."""
    refusals = 300
    server = start_server(settings, stub={}).wait_ready()
    with server.client() as client:

        def ask(method: str, path: str, **headers: str) -> int:
            headers = {"Content-Type": "image/jpeg", **headers}
            return client.request(method, path, content=jpeg(), headers=headers).status_code

        assert ask("POST", INFER) == 200
        wrong = {} if key is None else {"X-API-Key": key}
        codes = [ask(method, path, **wrong) for _ in range(refusals)]
    assert codes == [status] * refusals
    assert server.stop() == 0
    lines = server.log_lines()
    alone = [line for line in lines if line.get("code") == code]
    counted = [line["refused"][code] for line in lines if "refused" in line]
    assert len(alone) + sum(counted) == refusals
    moments = [datetime.fromisoformat(line["timestamp"]) for line in lines]
    seconds = (max(moments) - min(moments)).total_seconds()
    assert len(alone) <= 10 * (seconds + 1)
    assert counted, "or the log was asked for less than it takes"
    assert not [line for line in lines if "refused" in line and "request_id" in line]
