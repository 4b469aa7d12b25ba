"""Which metric reads what: the parts know nothing of metrics, or of each other."""

from __future__ import annotations

import logging
from functools import partial

from prometheus_client.utils import floatToGoString

from predictor.bundle.reference import Reference
from predictor.inference.classifier import Classifier
from predictor.security.audit import AuditLog
from predictor.security.certificates import CertificateStore
from predictor.security.key_store import KeyStore
from predictor.security.rate_limits import RateLimits
from predictor.serving.policy import Policy
from predictor.telemetry import metrics as names
from predictor.telemetry.gpu import measure_gpu
from predictor.telemetry.recording import Metrics

log = logging.getLogger(__name__)


def measure_process(
    metrics: Metrics,
    policy: Policy,
    keys: KeyStore | None,
    certificates: CertificateStore | None,
    rate_limits: RateLimits | None,
    *,
    max_queue: int,
) -> None:
    """Read what is there before the model. What is switched off has no series."""
    metrics.read(names.IN_FLIGHT, lambda: policy.in_flight)
    metrics.read(names.QUEUE_DEPTH, lambda: 0)  # until there is one
    metrics.read(names.QUEUE_LIMIT, lambda: max_queue)
    if keys is not None:
        _measure_reloads(metrics, "keys", keys)
    if certificates is not None:
        _measure_reloads(metrics, "certificates", certificates)
        _measure_end(metrics, certificates)
    if rate_limits is not None:
        metrics.read(names.STORE_FAILURES, lambda: rate_limits.store_failures)
    if policy.audit is not None:
        _measure_audit(metrics, policy.audit)


def measure_classifier(metrics: Metrics, classifier: Classifier, model_name: str) -> None:
    """Read what a loaded model holds."""
    manifest, pipeline = classifier.manifest, classifier.pipeline
    metrics.serves(
        name=model_name,
        version=manifest.version,
        digest=manifest.digest,
        engine=pipeline.engine,
        device=pipeline.device,
    )
    metrics.read(names.QUEUE_DEPTH, lambda: pipeline.queue_depth)
    if pipeline.gpu is not None:
        measure_gpu(metrics, pipeline.gpu, pipeline.device)
    if manifest.reference is not None:
        measure_reference(metrics, manifest.reference)


def _measure_reloads(metrics: Metrics, files: str, store: KeyStore | CertificateStore) -> None:
    metrics.read(names.RELOAD_FAILURES, lambda: store.state.failures, files=files)
    metrics.read(names.RELOAD_SUCCESS, lambda: store.state.last_success, files=files)


def _measure_end(metrics: Metrics, store: CertificateStore) -> None:
    def end() -> float:
        return store.value.not_after.timestamp()

    metrics.read(names.CERTIFICATE_END, end)


def _measure_audit(metrics: Metrics, audit: AuditLog) -> None:
    metrics.read(names.AUDIT_DROPPED, lambda: audit.dropped)
    metrics.read(names.AUDIT_FAILING, lambda: audit.failing)


def measure_reference(metrics: Metrics, reference: Reference) -> None:
    """Show what the bundle expects at the bounds of the histogram that it knows."""
    shares = {bound: reference.at(bound) for bound in names.FAKE_PROBABILITY.buckets}
    known = {bound: share for bound, share in shares.items() if share is not None}
    if len(known) <= 1:  # 1 is a bound of every reference, and says nothing
        log.warning("the bundle's reference has no bound of the histogram; drift goes unnoticed")
    for bound, share in known.items():
        # As the histogram writes its own, or the two would never meet.
        le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # it has no annotations
        metrics.read(names.REFERENCE, partial(float, share), le=le)
