"""Every knob, once: typed, bounded, documented; those on access are in `access.py`.

`docs/settings.md`, the flags of the command line and the messages for bad values are made from
these classes, descriptions included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from predictor.settings.group import Group
from predictor.settings.pairs import Pairs

MIB: Final = 1024 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["0b5e…"])]
Url = Annotated[
    str,
    Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        examples=["http://collector.observability:4318"],
    ),
]


class ModelSettings(Group):
    """What is served."""

    path: Path = Field(
        Path("/mnt/models"),
        description="Directory of the model bundle, or of one bundle below it. The default is "
        "where KServe's storage initializer puts it.",
    )
    name: str = Field(
        "realfake",
        examples=["realfake"],
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
        description="Name of the model in every route and in every gRPC call. Clients that use "
        "another name get NOT_FOUND.",
    )
    digest: Digest | None = Field(
        None,
        description="Digest of the bundle that is to be served, as `python -m predictor model "
        "inspect` prints it. Another one is refused at the start, whatever lies at its address.",
    )
    allow_pth: bool = Field(
        False,
        description="Also read a pickled `.pth` checkpoint (with `weights_only=True`). Prefer "
        "`python -m predictor model convert`: safetensors cannot hold code.",
    )
    engine: Literal["auto", "torch", "onnx"] = Field(
        "auto",
        description="What runs the network. `auto` is torch on a GPU, and on a CPU ONNX Runtime, "
        "several times as fast, with the bundle's `model.onnx` (`python -m predictor model "
        "export`) or a graph made at the start, which takes torch, seconds and memory.",
    )
    device: str = Field(
        "auto",
        examples=["auto", "cpu", "cuda", "cuda:1"],
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$",
        description="Where the network runs: `auto` takes the first GPU when there is one, else "
        "the CPU. Naming a device that is missing stops the start.",
    )
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto",
        description="Arithmetic of the network. `auto` is fp32 on a CPU and half precision on a "
        "GPU. fp32 is closest to what the bundle was measured with; half precision is faster.",
    )
    cuda_graphs: bool = Field(
        True,
        description="Whether a GPU replays the forwards of up to 64 pictures, which spares the CPU "
        "the launch of each kernel. Capturing them takes seconds of the start and memory of the "
        "GPU. A network that cannot be captured, or answers otherwise, is served without.",
    )


class ServerSettings(Group):
    """Where it listens, and how it ends."""

    host: str = Field(
        "0.0.0.0",
        min_length=1,
        description="Address all ports bind to. `127.0.0.1` keeps them to this machine; `::` "
        "also serves IPv6.",
    )
    http_port: Port = Field(
        8080, description="Port of V1, V2 and /infer over HTTP. 0 takes any free port."
    )
    grpc_port: Port = Field(8081, description="Port of gRPC. 0 takes any free port.")
    health_port: Port | None = Field(
        None,
        description="Port that answers liveness and readiness over plain HTTP, and nothing else. "
        "For the kubelet's probes, which have no client certificate. Unset, it is not opened.",
    )
    metrics_port: Port = Field(
        8082,
        description="Port of /metrics, over plain HTTP and without a key: who can reach it can "
        "read key ids and how much they ask. 0 takes any free port.",
    )
    metrics_enabled: bool = Field(
        True,
        description="Open `server.metrics_port`. Off, dashboards, alerts and KEDA see nothing.",
    )
    drain_delay_s: float = Field(
        5.0,
        ge=0,
        le=300,
        description="Seconds to keep serving after SIGTERM while answering not-ready, so that "
        "load balancers notice first. Too short loses requests; too long slows a rollout.",
    )
    drain_timeout_s: float = Field(
        25.0,
        gt=0,
        le=3600,
        description="Seconds the requests in flight get after the delay; what is unfinished then "
        "is cut. Keep the sum of both below the pod's terminationGracePeriodSeconds.",
    )
    keep_alive_s: int = Field(
        65,
        ge=1,
        le=3600,
        description="Seconds an idle HTTP connection stays open. Longer than the load balancer's "
        "own idle time, or it sends requests into connections that are closing.",
    )
    docs_enabled: bool = Field(
        False,
        description="Serve /docs and /openapi.json, to who has an API key: a browser needs a proxy "
        "that adds it, and the scripts of /docs come from a CDN. Off, they answer NOT_FOUND.",
    )


class LimitSettings(Group):
    """What one request may cost."""

    max_request_bytes: int = Field(
        32 * MIB,
        ge=1024,
        le=1024 * MIB,
        description="Bytes in one request, after decompression; more is PAYLOAD_TOO_LARGE. Each "
        "request in flight may hold this much memory.",
    )
    max_pictures: int = Field(
        32, ge=1, le=1024, description="Pictures in one request; more is INVALID_REQUEST."
    )
    max_image_bytes: int = Field(
        10 * MIB,
        ge=1024,
        le=1024 * MIB,
        description="Bytes in one encoded picture; more is PAYLOAD_TOO_LARGE.",
    )
    max_pixels: int = Field(
        25_000_000,
        ge=4096,
        le=400_000_000,
        description="Width times height of one picture; more is IMAGE_TOO_LARGE. Decoding holds "
        "about four bytes for each, per decoding worker.",
    )
    max_side: int = Field(
        8192,
        ge=64,
        le=65535,
        description="Longest side of a picture in pixels; more is IMAGE_TOO_LARGE.",
    )
    min_side: int = Field(
        8,
        ge=1,
        le=4096,
        description="Shortest side of a picture in pixels; less is INVALID_IMAGE, because "
        "enlarging a few pixels says nothing about a photograph.",
    )
    max_aspect_ratio: float = Field(
        20.0,
        ge=1,
        le=1000,
        description="Long side divided by short side; more is IMAGE_TOO_LARGE. A thin strip "
        "grows by its ratio when the short side is enlarged.",
    )
    max_resized_pixels: int = Field(
        4_000_000,
        ge=4096,
        le=400_000_000,
        description="Pixels of a picture after resizing and before cropping; more is "
        "IMAGE_TOO_LARGE. Must leave room for the bundle's input size.",
    )
    max_jpeg_scans: int = Field(
        64,
        ge=1,
        le=1000,
        description="Scans in a progressive JPEG; more is IMAGE_TOO_LARGE. Each costs a pass "
        "over the whole picture.",
    )
    max_segments: int = Field(
        1000,
        ge=8,
        le=100_000,
        description="Segments or chunks in a picture file; more is IMAGE_TOO_LARGE.",
    )
    max_json_values: int = Field(
        1_000_000,
        ge=1000,
        le=100_000_000,
        description="Values in one JSON body, or numbers in the typed contents of one gRPC "
        "message; more is PAYLOAD_TOO_LARGE. Parsing them stops every other request meanwhile; "
        "binary tensors and encoded pictures do not count.",
    )
    max_in_flight: int = Field(
        512,
        ge=1,
        le=65536,
        description="Requests admitted at once over all protocols; the next is OVERLOADED, with "
        "the time to wait. One API key alone may hold four fifths. Health answers are not counted.",
    )
    max_bytes_in_flight: int = Field(
        512 * MIB,
        ge=1 * MIB,
        le=1024 * 1024 * MIB,
        description="Bytes that all requests in flight hold together, as received and as "
        "decompressed; the next is OVERLOADED, over HTTP before its body is read. Bounds the "
        "server's memory.",
    )
    max_connections: int = Field(
        1024,
        ge=1,
        le=65536,
        description="Open connections of each protocol. Over HTTP a further one takes the place "
        "of the longest idle; over gRPC it is closed. Each costs a file descriptor.",
    )
    max_header_bytes: int = Field(
        32 * 1024,
        ge=1024,
        le=1 * MIB,
        description="Bytes of a request's line and headers, or of gRPC metadata; more is refused.",
    )
    max_headers: int = Field(
        100, ge=8, le=10_000, description="Headers of a request; more is INVALID_REQUEST."
    )
    max_deadline_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds after which any request is DEADLINE_EXCEEDED; a client can only "
        "ask for less.",
    )
    receive_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds a client may take to send its request, headers included, and to take "
        "its answer; slower ones are cut, so that they cannot hold places and connections.",
    )


class BatchingSettings(Group):
    """How pictures of different requests share the device."""

    max_batch_size: int = Field(
        32,
        ge=1,
        le=1024,
        description="Pictures in one forward pass. Larger raises throughput on a GPU, and its "
        "memory. ONNX Runtime on a CPU takes no more than 4, which is all it gains by. Sizes are "
        "warmed up at start.",
    )
    max_queue: int = Field(
        256,
        ge=1,
        le=65536,
        description="Pictures admitted and not yet answered; the next is OVERLOADED. One API key "
        "alone may hold four fifths. Longer turns refusals into latency.",
    )
    max_wait_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="Milliseconds a batch may wait, at most, for pictures that are on their way. "
        "It waits no longer than a fuller batch saves, by what forwards took lately: on one core "
        "per lane not at all. 0 never waits. A lone request never waits, nor does any picture in a "
        "lane that is a process.",
    )
    weights: Pairs[Annotated[int, Field(ge=1, le=1000)]] = Field(
        {},
        description="Turns by key id, such as `batch=1,web=4`: of two callers who both wait, the "
        "second is then given four pictures for each of the first's. A key that is not named has "
        "1. Without waiting callers it changes nothing.",
    )
    forward_timeout_s: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="Seconds one forward may take before the device counts as hung: the process "
        "then fails its requests and exits non-zero, to be restarted; a lane that is a process is "
        "replaced, once it is silent for so long after its deadline. Too short ends a healthy "
        "server under load.",
    )


class DecodingSettings(Group):
    """Where untrusted pictures are opened, and what one may cost there."""

    mode: Literal["thread", "process"] = Field(
        "process",
        description="`process` decodes outside the server: a picture that crashes its decoder or "
        "overruns a limit below costs its own request. `thread` spares the processes' memory and "
        "the way to them; such a picture then costs the server.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Pictures decoded at once; lanes, where these are processes. 0 is one per "
        "CPU that this process may use.",
    )
    max_cpu_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="CPU seconds for one picture in mode `process`; more is INVALID_IMAGE. The "
        "request's own deadline ends a decoder as well.",
    )
    max_memory_bytes: int = Field(
        512 * MIB,
        ge=128 * MIB,
        le=65536 * MIB,
        description="Private memory of one decoder in mode `process`, of which 64 MiB are its "
        "own, and the network's is none; a picture that takes more is INVALID_IMAGE.",
    )


class TelemetrySettings(Group):
    """What it says about itself."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description="Least severe level to log. DEBUG also shows what libraries say; never "
        "pictures, keys or headers. The signal USR2 switches to DEBUG and back.",
    )
    log_severity_field: Literal["level", "severity", "log.level"] = Field(
        "level",
        description="What the field with the level is called: `severity` for Google Cloud, "
        "`log.level` for Elastic.",
    )
    otlp_endpoint: Url | None = Field(
        None,
        description="Collector of traces, which takes OTLP over HTTP; `/v1/traces` is added. "
        "Unset, nothing is traced. Its headers and CA come from `OTEL_EXPORTER_OTLP_HEADERS` and "
        "`OTEL_EXPORTER_OTLP_CERTIFICATE`.",
    )
    trace_sample_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the requests that are traced where the caller's `traceparent` does "
        "not decide. Each traced request costs the server a part of a millisecond.",
    )
