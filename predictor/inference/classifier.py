"""decode → batch → calibrate → verdict: the one entry that every protocol calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import Manifest, read_golden_vectors, read_manifest
from predictor.bundle.verdicts import softmax
from predictor.errors import (
    BundleError,
    DeadlineExceeded,
    SettingsError,
)
from predictor.inference.admission import Admission
from predictor.inference.batcher import Batcher
from predictor.inference.decode_modes import open_pool
from predictor.inference.decode_pool import DecodePool, Job, Prepared
from predictor.inference.decode_worker import Decoder
from predictor.inference.decoding import decode
from predictor.inference.delivery import EXPIRED, Item, answers_of
from predictor.inference.engine import Engine, EngineOutOfMemory
from predictor.inference.engines import make_engine
from predictor.inference.observer import Observer, Observers, observed
from predictor.inference.pictures import Classification, Picture
from predictor.inference.timeline import Timeline
from predictor.settings import Settings


class Classifier:
    """What is served, whoever asks.

    Args:
        pool: decodes; closed with the classifier.
        max_pictures: most pictures admitted and not yet answered; one more is refused.
        weights: turns by caller, in decoding and in the batcher; see `FairQueue`.
    """

    def __init__(
        self,
        manifest: Manifest,
        batcher: Batcher,
        pool: DecodePool,
        *,
        max_pictures: int = 256,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self.manifest = manifest
        self._batcher = batcher
        self._pool = pool
        self._observer = Observer()
        self.admission = Admission(
            batcher.cost,
            decode_workers=pool.workers,
            undecoded=lambda: pool.backlog,
            lanes=batcher.engine.lanes,
            max_batch_size=batcher.max_batch_size,
            max_pictures=max_pictures,
            weights=weights,
        )

    @property
    def engine_name(self) -> str:
        return self._batcher.engine.name

    @property
    def device(self) -> str:
        return self._batcher.engine.device

    @property
    def gpu(self) -> str | None:
        """UUID of the GPU, as CUDA gives it; None on a CPU."""
        return self._batcher.engine.gpu

    @property
    def healthy(self) -> bool:
        return self._batcher.healthy and self.decodes

    @property
    def decodes(self) -> bool:
        """False once no decoder can be started any more."""
        return self._pool.healthy

    @property
    def queue_depth(self) -> int:
        return self._batcher.queue_depth

    @property
    def longest_forward_s(self) -> float:
        """Seconds since the oldest forward that still runs began; 0 when none runs."""
        return self._batcher.longest_forward_s

    async def classify(
        self,
        pictures: Sequence[Picture],
        *,
        caller: str | None = None,
        deadline: float | None = None,
        promised: bool = False,
        timeline: Timeline | None = None,
    ) -> list[Classification]:
        """Classify the pictures of one request, in order.

        Args:
            caller: whose turns it uses; None where callers are not told apart.
            deadline: `time.monotonic()` after which nobody wants the answer.
            promised: see `Admission.enter`.
            timeline: the request's, which learns where its time goes.

        Raises:
            WireError: of the first picture that cannot be classified, with its place
                (``image[3]``) in front where there are several.
        """
        timeline = timeline or Timeline(time.monotonic())
        timeline.pictures = len(pictures)
        with observed(self._observer, len(pictures), deadline):
            results = await self._classify(pictures, caller, deadline, timeline, promised=promised)
        self._observer.classified(results)
        return results

    def observe(self, *observers: Observer) -> None:
        """Tell `observers` from now on what happens to pictures."""
        self._observer = self._batcher.observer = Observers(observers)

    async def _classify(
        self,
        pictures: Sequence[Picture],
        caller: str | None,
        deadline: float | None,
        timeline: Timeline,
        *,
        promised: bool,
    ) -> list[Classification]:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise DeadlineExceeded(EXPIRED)
        count, lane = len(pictures), caller or ""
        with (
            self.admission.enter(count, caller=caller, deadline=deadline, promised=promised),
            self._batcher.expect(count, caller=lane, deadline=deadline, timeline=timeline) as items,
        ):
            timeline.enter("decode", now)
            jobs = [
                Job(picture, deadline, item.future, item.context, partial(self._decoded, item))
                for picture, item in zip(pictures, items, strict=True)
            ]
            self._pool.submit(lane, jobs)
            try:
                return [self._answer(row) for row in await answers_of(items)]
            finally:
                if any(item.announced for item in items):
                    self._pool.withdraw(jobs)

    def _decoded(self, item: Item, outcome: Prepared | BaseException) -> None:
        """In the thread that decoded."""
        if not isinstance(outcome, Prepared):
            self._batcher.fail(item, outcome)
            return
        self._batcher.put(item, outcome.crop)
        self.admission.decode_took(outcome.took_s)
        self._observer.decoded(outcome.took_s)

    def abandon(self) -> None:
        """Fail what waits for a device that will not answer any more."""
        self._batcher.abandon()

    async def close(self) -> None:
        """End the pool and the device thread; what still waits gets NotReady."""
        self._pool.close()
        await self._batcher.stop()

    def _answer(self, logits: NDArray[np.float32]) -> Classification:
        probabilities = softmax(logits, self.manifest.temperature)
        verdicts = self.manifest.verdicts
        fake_prob = verdicts.fake_probability(probabilities)
        return Classification(probabilities, fake_prob, verdicts.decide(fake_prob))


def load_classifier(settings: Settings) -> Classifier:
    """Read the bundle, build the engine, warm it up, replay the golden vectors. Takes seconds.

    Raises:
        BundleError: the bundle is refused.
        SettingsError: the device is not to be had, or too small for the largest batch.
    """
    manifest = read_manifest(settings.model.path, allow_pth=settings.model.allow_pth)
    if settings.model.digest not in (None, manifest.digest):
        raise BundleError(
            f"model.digest: the bundle's is {manifest.digest}; name that one if it is the bundle "
            "you want, or fetch the one you do"
        )
    engine = make_engine(manifest, settings.model)
    largest = _largest_batch(engine, settings)
    try:
        engine.warm_up(batch_sizes(largest))
        replay(manifest, engine, engine.tolerance)
    except EngineOutOfMemory:
        raise SettingsError(
            f"batching.max_batch_size: {largest} pictures do not fit into the memory of "
            f"{engine.device}; set a smaller one"
        ) from None
    return build_classifier(manifest, engine, settings)


def build_classifier(
    manifest: Manifest, engine: Engine, settings: Settings, decoder: Decoder = decode
) -> Classifier:
    """Put a warm engine to work as the settings say.

    Raises:
        StartupError: the decoder processes do not start.
    """
    batching = settings.batching
    pool = open_pool(settings, manifest.preprocessing, decoder)
    batcher = Batcher(
        engine,
        max_batch_size=_largest_batch(engine, settings),
        max_wait_s=batching.max_wait_ms / 1000,
        weights=batching.weights,
    )
    batcher.start()
    return Classifier(
        manifest,
        batcher,
        pool,
        max_pictures=batching.max_queue,
        weights=batching.weights,
    )


def _largest_batch(engine: Engine, settings: Settings) -> int:
    asked = settings.batching.max_batch_size
    return asked if engine.largest_batch is None else min(asked, engine.largest_batch)


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
    step = engine.largest_batch or len(golden.pixels)
    logits = [
        engine.forward(golden.pixels[start : start + step])
        for start in range(0, len(golden.pixels), step)
    ]
    answers = softmax(np.concatenate(logits), manifest.temperature)
    difference = float(np.abs(answers - golden.probabilities).max())
    if not difference <= tolerance:
        raise BundleError(
            f"golden vectors: an answer differs by {difference:.2g}, more than {tolerance:g}; the "
            "weights, the preprocessing or the device do not do what the bundle was made with"
        )
    return difference
