"""decode → network → calibrate → verdict: the one entry that every protocol calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import Manifest, read_golden_vectors, read_manifest
from predictor.bundle.verdicts import softmax
from predictor.errors import BundleError, SettingsError, StartupError
from predictor.inference.admission import Admission
from predictor.inference.batcher import Batcher
from predictor.inference.decode_modes import open_lanes, open_pool
from predictor.inference.decode_pool import refuse_expired
from predictor.inference.decode_wire import Decoder
from predictor.inference.decoding import decode
from predictor.inference.delivery import answers_of
from predictor.inference.engine import Engine, EngineLost, EngineOutOfMemory, Forwards
from predictor.inference.engines import make_engine, runs_in_lanes
from predictor.inference.lanes import LanePipeline
from predictor.inference.observer import Observer, Observers, observed
from predictor.inference.onnx_engine import OnnxEngine
from predictor.inference.pictures import Classification, Picture
from predictor.inference.pipeline import Pipeline
from predictor.inference.staged import StagedPipeline
from predictor.inference.timeline import Timeline
from predictor.settings import Settings


class Classifier:
    """What is served, whoever asks.

    Args:
        pipeline: closed with the classifier.
        max_pictures: most pictures admitted and not yet answered; one more is refused.
        weights: turns by caller; see `FairQueue`.
    """

    def __init__(
        self,
        manifest: Manifest,
        pipeline: Pipeline,
        *,
        max_pictures: int = 256,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self.manifest = manifest
        self.pipeline = pipeline
        self.admission = Admission(pipeline.costs, max_pictures=max_pictures, weights=weights)

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
        observer = self.pipeline.observer
        with observed(observer, len(pictures), deadline):
            results = await self._classify(pictures, caller, deadline, timeline, promised=promised)
        observer.classified(results)
        return results

    def observe(self, *observers: Observer) -> None:
        """Tell `observers` from now on what happens to pictures."""
        self.pipeline.observer = Observers(observers)

    async def _classify(
        self,
        pictures: Sequence[Picture],
        caller: str | None,
        deadline: float | None,
        timeline: Timeline,
        *,
        promised: bool,
    ) -> list[Classification]:
        refuse_expired(deadline)
        with (
            self.admission.enter(
                len(pictures), caller=caller, deadline=deadline, promised=promised
            ),
            self.pipeline.run(
                pictures, caller=caller or "", deadline=deadline, timeline=timeline
            ) as items,
        ):
            return [self._answer(row) for row in await answers_of(items)]

    async def close(self) -> None:
        """Close the pipeline; what still waits gets NotReady."""
        await self.pipeline.close()

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
        StartupError: the device was lost while it was tried out.
    """
    manifest = read_manifest(settings.model.path, allow_pth=settings.model.allow_pth)
    if settings.model.digest not in (None, manifest.digest):
        raise BundleError(
            f"model.digest: the bundle's is {manifest.digest}; name that one if it is the bundle "
            "you want, or fetch the one you do"
        )
    if runs_in_lanes(manifest, settings):
        return _serving(manifest, _open_lanes(manifest, settings), settings)
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
    except EngineLost as error:
        raise StartupError(
            f"{engine.device} answers nothing any more; look at its driver: {error}"
        ) from None
    return build_classifier(manifest, engine, settings)


def build_classifier(
    manifest: Manifest, engine: Engine, settings: Settings, decoder: Decoder = decode
) -> Classifier:
    """Put a warm engine to work as the settings say.

    Raises:
        StartupError: the decoder processes do not start.
    """
    pool = open_pool(settings, manifest.preprocessing, decoder)
    batcher = Batcher(
        engine,
        max_batch_size=_largest_batch(engine, settings),
        max_wait_s=settings.batching.max_wait_ms / 1000,
        weights=settings.batching.weights,
    )
    batcher.start()
    return _serving(manifest, StagedPipeline(pool, batcher), settings)


def _open_lanes(manifest: Manifest, settings: Settings) -> LanePipeline:
    pool = open_lanes(settings, manifest)
    try:
        replay(manifest, pool, OnnxEngine.tolerance)
    except BaseException:
        pool.close()
        raise
    return LanePipeline(pool)


def _serving(manifest: Manifest, pipeline: Pipeline, settings: Settings) -> Classifier:
    batching = settings.batching
    return Classifier(manifest, pipeline, max_pictures=batching.max_queue, weights=batching.weights)


def _largest_batch(engine: Engine, settings: Settings) -> int:
    asked = settings.batching.max_batch_size
    return asked if engine.largest_batch is None else min(asked, engine.largest_batch)


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4, … and the largest itself."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest == 1 else [*sizes, largest]


def replay(manifest: Manifest, network: Forwards, tolerance: float) -> float:
    """Answer the golden vectors; return the largest difference of a probability.

    Raises:
        BundleError: it is above `tolerance`: other weights, or arithmetic gone wrong.
    """
    golden = read_golden_vectors(manifest)
    if golden is None:
        return 0.0
    step = network.largest_batch or len(golden.pixels)
    logits = [
        network.forward(golden.pixels[start : start + step])
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
