"""decode → batch → calibrate → verdict: the one entry that every protocol calls."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import Manifest, Preprocessing, read_golden_vectors, read_manifest
from predictor.errors import (
    BundleError,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    WireError,
)
from predictor.inference.batcher import EXPIRED, STOPPED, Batcher
from predictor.inference.decode_pool import DecodePool, ThreadDecodePool
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_worker import Decoder, Terms
from predictor.inference.decoding import DecodeLimits, decode
from predictor.inference.engine import Engine, EngineInput
from predictor.inference.pictures import Classification, Picture
from predictor.settings import Settings


class Classifier:
    """What is served, whoever asks.

    Args:
        pool: decodes; closed with the classifier.
        max_pending: most pictures being decoded or waiting to be; one more is refused.
    """

    def __init__(
        self,
        manifest: Manifest,
        batcher: Batcher,
        pool: DecodePool,
        *,
        max_pending: int = 256,
    ) -> None:
        self.manifest = manifest
        self._batcher = batcher
        self._pool = pool
        self._max_pending = max_pending
        self._pending = 0

    @property
    def engine_name(self) -> str:
        return self._batcher.engine.name

    @property
    def device(self) -> str:
        return self._batcher.engine.device

    @property
    def healthy(self) -> bool:
        return self._batcher.healthy

    @property
    def queue_depth(self) -> int:
        return self._batcher.queue_depth

    async def classify(
        self, pictures: Sequence[Picture], *, deadline: float | None = None
    ) -> list[Classification]:
        """Classify the pictures of one request, in order.

        Args:
            deadline: `time.monotonic()` after which nobody wants the answer.

        Raises:
            WireError: of the first picture that cannot be classified, with its place
                (``image[3]``) in front where there are several.
        """
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded(EXPIRED)
        with self._batcher.expect(len(pictures)):
            crops = await self._prepare_all(pictures, deadline)
        logits = await self._batcher.submit_many(crops, deadline=deadline)
        return [self._answer(row) for row in logits]

    async def close(self) -> None:
        """End the pool and the device thread; what still waits gets NotReady."""
        self._pool.close()
        await self._batcher.stop()

    async def _prepare_all(
        self, pictures: Sequence[Picture], deadline: float | None
    ) -> list[EngineInput]:
        if self._pending + len(pictures) > self._max_pending:
            raise Overloaded("too many pictures wait to be decoded; retry later")
        self._pending += len(pictures)
        futures: list[asyncio.Future[EngineInput]] = []
        try:
            for picture in pictures:
                futures.append(self._pool.submit(picture, deadline))
            return [await _placed(f, index, len(futures)) for index, f in enumerate(futures)]
        except RuntimeError:  # the pool is shut down
            raise NotReady(STOPPED) from None
        finally:
            for future in futures:
                future.cancel()
                # A later picture's failure is nobody's news once the first has failed.
                future.add_done_callback(_retrieve)
            self._pending -= len(pictures)

    def _answer(self, logits: NDArray[np.float32]) -> Classification:
        probabilities = softmax(logits, self.manifest.temperature)
        verdicts = self.manifest.verdicts
        fake_prob = verdicts.fake_probability(probabilities)
        return Classification(probabilities, fake_prob, verdicts.decide(fake_prob))


def softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Calibrated probabilities of logits (..., K), computed in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(axis=-1, keepdims=True)
    return result.astype(np.float32)


def load_classifier(settings: Settings) -> Classifier:
    """Read the bundle, build the engine, warm it up, replay the golden vectors. Takes seconds.

    Raises:
        BundleError: the bundle is refused.
        SettingsError: the device is not to be had.
    """
    manifest = read_manifest(settings.model.path, allow_pth=settings.model.allow_pth)

    from predictor.bundle.loader import load_module  # torch and timm take seconds to import
    from predictor.inference.torch_engine import TorchEngine

    engine = TorchEngine(
        load_module(manifest),
        manifest.preprocessing,
        device=settings.model.device,
        dtype=settings.model.dtype,
    )
    batching = settings.batching
    engine.warm_up(batch_sizes(batching.max_batch_size))
    replay(manifest, engine, engine.tolerance)
    batcher = Batcher(
        engine,
        max_batch_size=batching.max_batch_size,
        max_queue=batching.max_queue,
        max_wait_s=batching.max_wait_ms / 1000,
    )
    batcher.start()
    return Classifier(
        manifest,
        batcher,
        open_pool(settings, manifest.preprocessing),
        max_pending=batching.max_queue,
    )


def open_pool(
    settings: Settings, preprocessing: Preprocessing, decoder: Decoder = decode
) -> DecodePool:
    """Start what the settings ask for.

    Raises:
        StartupError: no decoder process can be started.
    """
    limits, decoding = settings.limits, settings.decoding
    workers = decoding.workers or len(os.sched_getaffinity(0))
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
    if decoding.mode == "thread":
        return ThreadDecodePool(preprocessing, decode_limits, workers=workers, decoder=decoder)
    terms = Terms(
        decoder, preprocessing, decode_limits, decoding.max_cpu_s, decoding.max_memory_bytes
    )
    return ProcessDecodePool(terms, workers=workers)


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4, … and the largest itself."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest == 1 else [*sizes, largest]


def replay(manifest: Manifest, engine: Engine, tolerance: float) -> float:
    """Answer the golden vectors; return the largest difference of a probability.

    Raises:
        BundleError: it is above `tolerance`: other weights, or arithmetic gone wrong.
    """
    golden = read_golden_vectors(manifest)
    if golden is None:
        return 0.0
    answers = softmax(engine.forward(golden.pixels), manifest.temperature)
    difference = float(np.abs(answers - golden.probabilities).max())
    if not difference <= tolerance:
        raise BundleError(
            f"golden vectors: an answer differs by {difference:.2g}, more than {tolerance:g}; the "
            "weights, the preprocessing or the device do not do what the bundle was made with"
        )
    return difference


async def _placed(future: asyncio.Future[EngineInput], index: int, count: int) -> EngineInput:
    try:
        return await future
    except WireError as error:
        raise (error.at(f"image[{index}]") if count > 1 else error) from None


def _retrieve(future: asyncio.Future[EngineInput]) -> object:
    return future.cancelled() or future.exception()
