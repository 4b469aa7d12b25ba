"""Which way of decoding the settings ask for."""

from __future__ import annotations

from predictor.bundle.manifest import Preprocessing
from predictor.inference.cpus import usable_cpus
from predictor.inference.decode_pool import DecodePool, ThreadWorker
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_worker import Decoder, Terms
from predictor.inference.decoding import DecodeLimits, decode
from predictor.settings import Settings


def open_pool(
    settings: Settings, preprocessing: Preprocessing, decoder: Decoder = decode
) -> DecodePool:
    """Start the workers.

    Raises:
        StartupError: no decoder process can be started.
    """
    limits, decoding = settings.limits, settings.decoding
    workers = decoding.workers or usable_cpus()
    decode_limits = DecodeLimits(
        max_bytes=limits.max_image_bytes,
        max_pixels=limits.max_pixels,
        max_side=limits.max_side,
        min_side=limits.min_side,
        max_aspect_ratio=limits.max_aspect_ratio,
        max_resized_pixels=limits.max_resized_pixels,
        max_jpeg_scans=limits.max_jpeg_scans,
        max_segments=limits.max_segments,
    )
    weights = settings.batching.weights
    if decoding.mode == "thread":
        in_threads = [ThreadWorker(preprocessing, decode_limits, decoder) for _ in range(workers)]
        return DecodePool(in_threads, weights)
    terms = Terms(
        decoder, preprocessing, decode_limits, decoding.max_cpu_s, decoding.max_memory_bytes
    )
    return ProcessDecodePool(terms, workers=workers, weights=weights)
