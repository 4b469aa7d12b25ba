"""Traces of a real process, as the collector they are sent to sees them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server import scrape
from tests.server.conftest import StartServer
from tests.server.otlp import Collector, Received, collecting
from tests.server.process import ServerProcess, eventually
from tests.server.raw import INFER
from tests.server.test_faults import picture
from tests.server.test_logs import TRACE, TRACEPARENT, written

STAGES = ["receive", "decode", "queue", "forward", "encode"]
UNDECIDED_PARENT = "00f067aa0ba902b7"
NOT_SAMPLED = TRACEPARENT.removesuffix("01") + "00"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("traced")
    settings = {
        "REALFAKE_TELEMETRY__OTLP_ENDPOINT": collector.url,
        "REALFAKE_TELEMETRY__TRACE_SAMPLE_RATIO": "1",
        "REALFAKE_AUDIT__DESTINATION": "file",
        "REALFAKE_AUDIT__FILE": str(directory / "audit.jsonl"),
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "STUB_LOG": str(directory / "batches.jsonl"),
        "STUB_FORWARD_S": "0.05",
    }
    server = ServerProcess(directory, settings, ("-m", "tests.server.stub"))
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


def infer(server: ServerProcess, **headers: str) -> str:
    """Post a picture; the id of the request."""
    with server.client() as client:
        answer = client.post(
            INFER, content=picture(10), headers={"Content-Type": "image/png"} | headers
        )
    return answer.headers["x-request-id"]


def audited(server: ServerProcess, request_id: str) -> dict[str, Any] | None:
    text = (server.directory / "audit.jsonl").read_text()
    records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return next(
        (
            record
            for record in records
            if record["message"] == "inference" and record.get("request_id") == request_id
        ),
        None,
    )


def in_order(collector: Collector, root: Received) -> list[Received]:
    return sorted(collector.children(root).values(), key=lambda span: span.began_ns)


def test_a_request_and_its_stages_are_part_of_the_callers_trace(
    traced: ServerProcess, collector: Collector
) -> None:
    root = collector.request(infer(traced, traceparent=TRACEPARENT))
    assert (root.trace, root.parent) == (TRACE, UNDECIDED_PARENT)
    assert root.name == "/v2/models/{model}/infer"
    assert root.resource["service.name"] == "realfake"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["realfake.key_id"] == "tests"
    assert root.attributes["realfake.pictures"] == 1
    assert not root.failed
    stages = in_order(collector, root)
    assert [span.name for span in stages] == STAGES
    assert {span.trace for span in stages} == {TRACE}
    # Without a gap, so that nothing of the time is unaccounted for.
    assert stages[0].began_ns == root.began_ns
    assert stages[-1].ended_ns == root.ended_ns
    assert all(one.ended_ns == next_.began_ns for one, next_ in pairwise(stages))
    forward = stages[3]
    assert forward.ended_ns - forward.began_ns >= 50e6
    assert collector.paths == {"/v1/traces"}


def test_grpc_is_traced_alike(traced: ServerProcess, collector: Collector) -> None:
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        picture(11)
    )
    metadata = [("x-api-key", traced.api_key), ("x-request-id", "traced-grpc")]
    with grpc.insecure_channel(traced.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request, metadata=[*metadata, ("traceparent", TRACEPARENT)], timeout=30)
    root = collector.request("traced-grpc")
    assert (root.trace, root.parent) == (TRACE, UNDECIDED_PARENT)
    assert root.name == "/inference.GRPCInferenceService/ModelInfer"
    assert root.attributes["rpc.method"] == "inference.GRPCInferenceService/ModelInfer"
    assert [span.name for span in in_order(collector, root)] == STAGES


async def test_a_batch_links_to_the_requests_in_it(
    traced: ServerProcess, collector: Collector
) -> None:
    headers = {"Content-Type": "image/png"}
    async with traced.async_client() as client:
        answers = await asyncio.gather(
            *(client.post(INFER, content=picture(red), headers=headers) for red in range(20, 28))
        )
    ids = [answer.headers["x-request-id"] for answer in answers]
    roots = [await asyncio.to_thread(collector.request, identity) for identity in ids]
    batches = [span for span in collector.spans() if span.name == "batch"]
    for root in roots:
        [batch] = [span for span in batches if (root.trace, root.id) in span.links]
        assert batch.trace != root.trace
        assert batch.parent == ""
        assert batch.attributes["realfake.batch_size"] == root.attributes["realfake.batch_size"]
        forward = collector.children(root)["forward"]
        assert forward.links == {(batch.trace, batch.id)}
    assert max(span.attributes["realfake.batch_size"] for span in batches) > 1


def test_a_refusal_ends_in_the_stage_it_had_reached(
    traced: ServerProcess, collector: Collector
) -> None:
    root = collector.request(infer(traced, **{"X-API-Key": "rf_nobody"}))
    assert root.attributes["http.response.status_code"] == 401
    assert root.attributes["error.type"] == "UNAUTHENTICATED"
    assert not root.failed, "the caller's mistake is not ours"
    assert list(collector.children(root)) == ["receive"]


def test_what_the_caller_does_not_trace_is_not_sent(
    traced: ServerProcess, collector: Collector
) -> None:
    untraced = infer(traced, traceparent=NOT_SAMPLED)
    collector.request(infer(traced))  # sent after it, so it would be here
    assert untraced not in [s.attributes.get("realfake.request_id") for s in collector.spans()]
    assert written(traced, untraced)["trace_id"] == TRACE


def test_probes_are_not_traced(traced: ServerProcess, collector: Collector) -> None:
    assert httpx.get(f"{traced.url}/v2/health/live").status_code == 200
    collector.request(infer(traced))
    assert not [span for span in collector.spans() if "health" in span.name]


def test_one_request_id_leads_through_log_exemplar_trace_and_audit(
    traced: ServerProcess, collector: Collector
) -> None:
    identity = infer(traced, **{"X-Request-Id": "one-thread", "traceparent": TRACEPARENT})
    assert identity == "one-thread"
    root = collector.request(identity)
    line = written(traced, identity)
    assert (line["trace_id"], line["span_id"]) == (root.trace, root.id)
    text = httpx.get(
        scrape.url(traced), headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    ).text
    exemplars = [
        sample.exemplar.labels
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # bare
        for sample in family.samples
        if sample.name == "inference_duration_seconds_bucket" and sample.exemplar
    ]
    assert {"request_id": identity, "trace_id": TRACE} in exemplars
    eventually(lambda: audited(traced, identity), 30, "its audit record")


def test_the_access_line_says_where_the_time_went(traced: ServerProcess) -> None:
    line = written(traced, infer(traced))
    parts = [line[f"{stage}_ms"] for stage in STAGES]
    assert sum(parts) == pytest.approx(line["duration_ms"], abs=0.01)
    assert line["forward_ms"] >= 50
    assert (line["pictures"], line["batch_size"]) == (1, 1)


def test_the_access_line_of_a_request_that_was_late_ends_where_it_was(
    start_server: StartServer,
) -> None:
    server = start_server(stub={"STUB_FORWARD_S": "2"}).wait_ready()
    late = written(server, infer(server, **{"X-Request-Timeout-Ms": "300"}))
    assert late["code"] == "DEADLINE_EXCEEDED"
    assert late["pictures"] == 1
    assert "encode_ms" not in late


def test_a_stranger_makes_nobody_trace(traced: ServerProcess, collector: Collector) -> None:
    """His spans would push those of others out of the queue."""
    stranger = infer(traced, **{"X-API-Key": "rf_nobody", "traceparent": TRACEPARENT})
    collector.request(infer(traced))  # sent after it, so it would be here
    assert stranger not in [s.attributes.get("realfake.request_id") for s in collector.spans()]


def test_a_pipelined_probe_is_not_the_request_before_it(start_server: StartServer) -> None:
    server = start_server(
        {
            "REALFAKE_TELEMETRY__OTLP_ENDPOINT": "http://127.0.0.1:9",
            "REALFAKE_TELEMETRY__LOG_LEVEL": "DEBUG",
        },
        stub={},
    ).wait_ready()
    head = f"Host: x\r\nX-API-Key: {server.api_key}\r\n"
    requests = f"GET /v2 HTTP/1.1\r\n{head}X-Request-Id: first\r\n\r\n"
    requests += f"GET /v2/health/live HTTP/1.1\r\n{head}X-Request-Id: second\r\n"
    requests += "Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.listening["http_port"]), 30) as raw:
        raw.sendall(requests.encode())
        while raw.recv(65536):
            pass
    assert "span_id" in written(server, "first")
    assert "span_id" not in written(server, "second")


def test_a_collector_that_does_not_answer_costs_no_request_and_no_stop(
    start_server: StartServer,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and says nothing
        deaf.settimeout(60)
        server = start_server(
            {
                "REALFAKE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}",
                "REALFAKE_TELEMETRY__TRACE_SAMPLE_RATIO": "1",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "60",  # or it gives up by itself meanwhile
            },
            stub={},
        ).wait_ready()
        connected, _ = deaf.accept() if infer(server) else (None, None)
        with server.client() as client:
            for red in range(5):
                headers = {"Content-Type": "image/png"}
                assert client.post(INFER, content=picture(red), headers=headers).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait(25) == 0
        if connected is not None:
            connected.close()
    assert server.log_lines()[-1]["message"] == "stopped"


def test_a_collector_that_is_gone_is_said_in_the_log(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server = start_server(
        {
            "REALFAKE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "REALFAKE_TELEMETRY__TRACE_SAMPLE_RATIO": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        },
        stub={},
    ).wait_ready()
    infer(server)
    said = server.wait_for_log("the collector does not take spans; some may be lost")
    assert said["level"] in ("WARNING", "ERROR")
    assert server.stop() == 0
