"""Every metric, once: its name, its labels, and why it exists.

`docs/metrics.md` is made from this page. What fills them is `recording.py`, and `gpu.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DURATIONS_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25),
    *(0.275, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Dense around 0.25 s, the bound of the latency objective; twice as far apart, a quantile near it
would be a guess."""
STAGES_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

LABELS: Final = {
    "protocol": "`v1`, `v2`, `legacy` (the old `/infer`) or `grpc`, by the route that was asked",
    "model_version": "version in the bundle; `none` while it loads",
    "code": "`OK`, a code of [protocols.md](protocols.md), `CANCELLED` (the caller hung "
    "up), or `ABORTED` (gRPC ended the call)",
    "stage": "`decode`, `queue`, `forward`, `encode`",
    "reason": "`late`, `in_flight`, `pictures`, `bytes`, `decoder`, `device_memory` "
    "(OVERLOADED), `rate_limited`, `not_ready`",
    "verdict": "`fake`, `real`, `uncertain`",
    "key_id": "an id in `auth.keys_dir`; empty where no key was accepted",
    "le": "a bound of `inference_fake_probability`",
    "name": "`model.name`",
    "version": "as `model_version`",
    "digest": "SHA-256 of the bundle",
    "engine": "name of the engine",
    "device": "`cpu` or `cuda:N`",
    "files": "`keys` (`auth.keys_dir`) or `certificates` (`tls`)",
}
"""What bounds each label. `outcome` has values of its own in each metric."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One definition.

    Attributes:
        name: as it is queried; a histogram's series add `_bucket`, `_sum` and `_count`.
        buckets: upper bounds of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    why: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS: Final = Metric(
    "counter",
    "inference_requests_total",
    "Requests for inference by how they ended: availability, and how a canary compares.",
    ("protocol", "model_version", "code"),
)
DURATION: Final = Metric(
    "histogram",
    "inference_duration_seconds",
    "Time to the answer, for the latency objective. Of requests that were answered or ran out of "
    "time only: what is refused at once would flatter it.",
    ("protocol", "model_version"),
    DURATIONS_S,
)
STAGE: Final = Metric(
    "histogram",
    "inference_stage_duration_seconds",
    "Where the time goes. `decode` and `queue` are of one picture (`decode` without its wait for a "
    "decoder), `forward` of one batch, `encode` of one answer.",
    ("stage",),
    STAGES_S,
)
BATCH_SIZE: Final = Metric(
    "histogram",
    "inference_batch_size",
    "Pictures in one forward: whether batching works, on a GPU. A batch that failed is not "
    "counted, its halves are.",
    (),
    (1, 2, 4, 8, 16, 32, 64, 128, 256),
)
QUEUE_DEPTH: Final = Metric(
    "gauge",
    "inference_queue_depth",
    "Pictures that wait for the network now; where a lane is a process, not decoded yet.",
)
QUEUE_LIMIT: Final = Metric(
    "gauge",
    "inference_queue_limit",
    "How many may wait (`batching.max_queue`), so that who looks at the depth knows what full is.",
)
QUEUE_WAIT: Final = Metric(
    "histogram",
    "inference_queue_wait_seconds",
    "What one picture waited for the network, before it was decoded where a lane is a process; the "
    "same as stage `queue`, under the name that autoscaling asks for.",
    (),
    STAGES_S,
)
IN_FLIGHT: Final = Metric(
    "gauge",
    "inference_in_flight",
    "Requests for inference being served now, of `limits.max_in_flight`; autoscaling asks for it.",
)
REJECTIONS: Final = Metric(
    "counter",
    "inference_rejections_total",
    "Requests turned away for the server's state or the caller's rate, by cause: which limit to "
    "raise, or what to scale.",
    ("reason",),
)
IMAGES: Final = Metric(
    "counter",
    "inference_images_total",
    "Pictures by what became of them: the throughput that costs money, and who sends broken ones. "
    "`outcome` is `classified`, or the code of its request in lower case.",
    ("outcome",),
)
VERDICTS: Final = Metric(
    "counter",
    "inference_verdicts_total",
    "What the model says: a mix that moves is drift, or an attack.",
    ("verdict", "model_version"),
)
FAKE_PROBABILITY: Final = Metric(
    "histogram",
    "inference_fake_probability",
    "Distribution of the scores: drift shows here before verdicts change.",
    (),
    tuple(round(step / 20, 2) for step in range(1, 21)),
)
REFERENCE: Final = Metric(
    "gauge",
    "inference_fake_probability_reference",
    "Share of pictures scored at most `le` where the bundle's author tried it: what the scores "
    "here are compared with. Of a bundle with a `reference`, at the bounds of the histogram.",
    ("le",),
)
LOOP_LAG: Final = Metric(
    "histogram",
    "inference_event_loop_lag_seconds",
    "How late the event loop runs what is due, looked at 4 times a second: anything that computes "
    "there makes every request and probe wait.",
    (),
    LAG_S,
)
MODEL_INFO: Final = Metric(
    "gauge",
    "inference_model_info",
    "Always 1, once the model is loaded: which one a replica serves, to join with the others.",
    ("name", "version", "digest", "engine", "device"),
)
KEY_REQUESTS: Final = Metric(
    "counter",
    "api_key_requests_total",
    "Who calls, on every route that wants a key, and how it ends for them. `outcome` is `ok`, "
    "`unauthenticated`, `rate_limited`, `refused` (the caller's mistake), `failed` (ours) or "
    "`cancelled`.",
    ("key_id", "outcome"),
)
RELOAD_FAILURES: Final = Metric(
    "counter",
    "inference_reload_failures_total",
    "Attempts to read changed keys or certificates that were refused: the old ones stay in use, "
    "also those that were to be revoked.",
    ("files",),
)
RELOAD_SUCCESS: Final = Metric(
    "gauge",
    "inference_reload_last_success_timestamp_seconds",
    "When the keys or certificates in use were read: whether a rotation has arrived here.",
    ("files",),
)
CERTIFICATE_END: Final = Metric(
    "gauge",
    "inference_certificate_not_after_timestamp_seconds",
    "When the TLS certificate in use ends: to be warned before clients are.",
)
STORE_FAILURES: Final = Metric(
    "counter",
    "inference_rate_limit_store_failures_total",
    "Questions to the rate limit's store that failed: limits do not hold meanwhile, or inference "
    "is refused (`rate_limit.on_store_failure`).",
)
AUDIT_DROPPED: Final = Metric(
    "counter",
    "inference_audit_dropped_total",
    "Audit records given up with `audit.on_failure` `open`: each is a gap.",
)
AUDIT_FAILING: Final = Metric(
    "gauge",
    "inference_audit_failing",
    "1 while audit records cannot be written: inference is refused, or goes unrecorded "
    "(`audit.on_failure`).",
)
GPU_UTILIZATION: Final = Metric(
    "gauge",
    "inference_gpu_utilization_ratio",
    "Share of the last moments in which the GPU did anything: near 1 under load, it is what "
    "limits; low under load, look at `decode`.",
    ("device",),
)
GPU_MEMORY_USED: Final = Metric(
    "gauge",
    "inference_gpu_memory_used_bytes",
    "Memory of the GPU in use, by whoever shares it: how far a larger batch is from failing.",
    ("device",),
)
GPU_MEMORY_TOTAL: Final = Metric(
    "gauge",
    "inference_gpu_memory_total_bytes",
    "Memory of the GPU: what the used is a share of.",
    ("device",),
)
GPU_TEMPERATURE: Final = Metric(
    "gauge",
    "inference_gpu_temperature_celsius",
    "Temperature of the GPU: a hot one is clocked down, and every forward takes longer.",
    ("device",),
)
GPU_POWER: Final = Metric(
    "gauge",
    "inference_gpu_power_watts",
    "Power the GPU draws: what a picture costs, and whether it runs into its limit.",
    ("device",),
)

ALL: Final = (
    REQUESTS,
    DURATION,
    STAGE,
    BATCH_SIZE,
    QUEUE_DEPTH,
    QUEUE_LIMIT,
    QUEUE_WAIT,
    IN_FLIGHT,
    REJECTIONS,
    IMAGES,
    VERDICTS,
    FAKE_PROBABILITY,
    REFERENCE,
    LOOP_LAG,
    MODEL_INFO,
    KEY_REQUESTS,
    RELOAD_FAILURES,
    RELOAD_SUCCESS,
    CERTIFICATE_END,
    STORE_FAILURES,
    AUDIT_DROPPED,
    AUDIT_FAILING,
    GPU_UTILIZATION,
    GPU_MEMORY_USED,
    GPU_MEMORY_TOTAL,
    GPU_TEMPERATURE,
    GPU_POWER,
)
