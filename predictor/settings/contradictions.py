"""Settings that are fine alone and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from predictor.settings.access import TlsSettings
from predictor.settings.groups import MIB, ModelSettings
from predictor.settings.root import Settings


def contradictions(settings: Settings, *, serving: bool) -> Iterator[tuple[str, str, str]]:
    """Yield pairs of settings that are fine alone and wrong together, with the fix."""
    server, limits = settings.server, settings.limits
    batching, auth = settings.batching, settings.auth
    if limits.min_side > limits.max_side:
        yield "limits.min_side", "limits.max_side", "no picture passes both; lower the first"
    if limits.max_image_bytes > limits.max_request_bytes:
        yield (
            "limits.max_image_bytes",
            "limits.max_request_bytes",
            "no request can carry such a picture; raise the second to at least the first",
        )
    yield from _bounds(settings)
    if batching.max_batch_size > batching.max_queue:
        yield (
            "batching.max_batch_size",
            "batching.max_queue",
            "such a batch can never fill; raise the second to at least the first",
        )
    if limits.max_pictures > batching.max_queue:
        yield (
            "limits.max_pictures",
            "batching.max_queue",
            "such a request can never be admitted; raise the second to at least the first",
        )
    if batching.max_wait_ms >= limits.max_deadline_s * 1000:
        yield (
            "batching.max_wait_ms",
            "limits.max_deadline_s",
            "requests would expire while their batch waits; lower the first",
        )
    yield from _model(settings.model)
    if not serving:
        return
    ports = ["http_port", "grpc_port", "health_port"]
    if server.metrics_enabled:
        ports.append("metrics_port")
    for first, second in combinations(ports, 2):
        if getattr(server, first) and getattr(server, first) == getattr(server, second):
            yield f"server.{first}", f"server.{second}", "must differ; change one of them"
    yield from _tls(settings.tls)
    if auth.mode == "api_key" and auth.keys_dir is None:
        yield (
            "auth.mode",
            "auth.keys_dir",
            "API keys are required but none are named; set auth.keys_dir to their directory, or "
            "auth.mode to none to serve everybody who can reach the ports",
        )
    if auth.mode == "none" and auth.keys_dir is not None:
        yield (
            "auth.mode",
            "auth.keys_dir",
            "the keys would be ignored; remove auth.keys_dir, or set auth.mode to api_key",
        )
    yield from _rate_limit(settings)
    yield from _audit(settings)


def _model(model: ModelSettings) -> Iterator[tuple[str, str, str]]:
    if model.engine == "onnx" and model.device.startswith("cuda"):
        yield "model.engine", "model.device", "onnx is for CPUs here; set the first to torch"
    if model.engine == "onnx" and model.dtype in ("fp16", "bf16"):
        yield "model.engine", "model.dtype", "onnx computes in fp32; set the second to auto"


def _rate_limit(settings: Settings) -> Iterator[tuple[str, str, str]]:
    rate_limit = settings.rate_limit
    if rate_limit.redis_url_file is not None and not (rate_limit.rate or rate_limit.rates):
        yield (
            "rate_limit.redis_url_file",
            "rate_limit.rate",
            "nothing would be limited; give a rate, or remove the first",
        )
    if settings.auth.mode == "none" and rate_limit.rates:
        yield (
            "rate_limit.rates",
            "auth.mode",
            "without keys there is nobody to tell apart; give rate_limit.rate instead of the first",
        )


def _audit(settings: Settings) -> Iterator[tuple[str, str, str]]:
    audit = settings.audit
    if audit.destination == "file" and audit.file is None:
        yield "audit.destination", "audit.file", "no file is named; set the second"
    if audit.destination != "file" and audit.file is not None:
        yield (
            "audit.destination",
            "audit.file",
            "nothing would be written there; set the first to file",
        )
    if audit.destination == "off" and audit.hmac_key_file is not None:
        yield "audit.destination", "audit.hmac_key_file", "nothing is audited; remove the second"


def _bounds(settings: Settings) -> Iterator[tuple[str, str, str]]:
    limits, decoding = settings.limits, settings.decoding
    if 2 * limits.max_request_bytes > limits.max_bytes_in_flight:
        yield (
            "limits.max_request_bytes",
            "limits.max_bytes_in_flight",
            "one compressed request may hold twice the first; raise the second to at least that",
        )
    if limits.max_connections <= limits.max_in_flight:
        yield (
            "limits.max_connections",
            "limits.max_in_flight",
            "health probes would find no connection left; raise the first above the second",
        )
    needed = 16 * limits.max_pixels + 64 * MIB  # WebP is the costliest; and the interpreter
    if decoding.mode == "process" and decoding.max_memory_bytes < needed:
        yield (
            "limits.max_pixels",
            "decoding.max_memory_bytes",
            f"such a picture cannot be decoded; raise the second to at least {needed}",
        )


def _tls(tls: TlsSettings) -> Iterator[tuple[str, str, str]]:
    if (tls.cert_file is None) != (tls.key_file is None):
        yield "tls.cert_file", "tls.key_file", "belong together; set both, or neither for no TLS"
    elif tls.client_ca_file is not None and tls.cert_file is None:
        yield (
            "tls.client_ca_file",
            "tls.cert_file",
            "client certificates need TLS; set tls.cert_file and tls.key_file, or remove the first",
        )
