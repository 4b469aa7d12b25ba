"""Which way of decoding the settings ask for, and whether its processes run the network."""

from __future__ import annotations

from predictor.bundle.files import GRAPH
from predictor.bundle.manifest import Manifest, Preprocessing
from predictor.inference.cpus import usable_cpus
from predictor.inference.decode_pool import DecodePool
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_threads import ThreadDecodePool
from predictor.inference.decode_wire import Decoder, Network, Terms, files_of
from predictor.inference.decoding import DecodeLimits, decode
from predictor.inference.onnx_engine import LARGEST_BATCH
from predictor.settings import Settings


def open_pool(
    settings: Settings, preprocessing: Preprocessing, decoder: Decoder = decode
) -> DecodePool:
    """Start the workers.

    Raises:
        StartupError: no decoder process can be started.
    """
    workers = settings.decoding.workers or usable_cpus()
    weights = settings.batching.weights
    if settings.decoding.mode == "thread":
        return ThreadDecodePool(
            preprocessing, _limits(settings), workers=workers, decoder=decoder, weights=weights
        )
    terms = _terms(settings, preprocessing, decoder, None)
    return ProcessDecodePool(terms, workers=workers, weights=weights)


def open_lanes(settings: Settings, manifest: Manifest) -> ProcessDecodePool:
    """Start processes that decode and run the bundle's graph.

    Raises:
        StartupError: none can be started.
        BundleError: the graph cannot be run.
    """
    largest = min(settings.batching.max_batch_size, LARGEST_BATCH)
    graph = manifest.path / GRAPH
    network = Network(graph, manifest.num_classes, largest, files_of(graph))
    return ProcessDecodePool(
        _terms(settings, manifest.preprocessing, decode, network),
        workers=settings.decoding.workers or usable_cpus(),
        weights=settings.batching.weights,
        patience_s=settings.batching.forward_timeout_s,
    )


def _terms(
    settings: Settings, preprocessing: Preprocessing, decoder: Decoder, network: Network | None
) -> Terms:
    decoding = settings.decoding
    return Terms(
        decoder,
        preprocessing,
        _limits(settings),
        decoding.max_cpu_s,
        decoding.max_memory_bytes,
        network,
    )


def _limits(settings: Settings) -> DecodeLimits:
    limits = settings.limits
    return DecodeLimits(
        max_bytes=limits.max_image_bytes,
        max_pixels=limits.max_pixels,
        max_side=limits.max_side,
        min_side=limits.min_side,
        max_aspect_ratio=limits.max_aspect_ratio,
        max_resized_pixels=limits.max_resized_pixels,
        max_jpeg_scans=limits.max_jpeg_scans,
        max_segments=limits.max_segments,
    )
