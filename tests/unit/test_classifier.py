"""From pictures to answers: the real debug bundle, and a network whose pace we set."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import math
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from predictor.bundle.manifest import Manifest
from predictor.errors import (
    DeadlineExceeded,
    InvalidImage,
    InvalidRequest,
    NotReady,
    Overloaded,
    UnsupportedMedia,
    let_go,
)
from predictor.inference.batcher import Batcher
from predictor.inference.classifier import (
    Classifier,
    build_classifier,
    load_classifier,
)
from predictor.inference.decode_threads import ThreadDecodePool
from predictor.inference.decoding import DecodeLimits
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture, Pixels, Tensor
from predictor.inference.staged import StagedPipeline
from predictor.settings import Settings
from tests.pictures import noise, saved
from tests.server.process import eventually
from tests.unit.reds import Reds, red

PATIENCE_S = 20.0


class SlowPicture:
    """A tensor whose pixels take as long to come as the test likes; `opened` says that they are
    asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.opened = threading.Event()
        self.ready = threading.Event()
        self.error = error

    @property
    def array(self) -> NDArray[np.float32]:
        self.opened.set()
        assert self.ready.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return np.ones((3, 128, 128), dtype=np.float32)

    @property
    def picture(self) -> Picture:
        return cast(Tensor, self)

    async def until_opened(self) -> None:
        assert await asyncio.to_thread(self.opened.wait, PATIENCE_S)


@pytest.fixture
def slow() -> Iterator[SlowPicture]:
    slow = SlowPicture()
    yield slow
    slow.ready.set()


@contextlib.asynccontextmanager
async def running(
    manifest: Manifest, *, max_pictures: int = 8, workers: int = 1
) -> AsyncIterator[Classifier]:
    """One decode worker, so that one slow picture holds up the others."""
    batcher = Batcher(Reds(), max_batch_size=8, max_wait_s=3600)
    batcher.start()
    pool = ThreadDecodePool(manifest.preprocessing, DecodeLimits(), workers=workers)
    classifier = Classifier(manifest, StagedPipeline(pool, batcher), max_pictures=max_pictures)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield classifier
    finally:
        await classifier.close()


# The real network


async def test_a_picture_gets_the_same_answer_however_it_is_sent(settings: Settings) -> None:
    classifier = await asyncio.to_thread(load_classifier, settings)
    preprocessing = classifier.manifest.preprocessing
    data = saved(noise(203, 301), "PNG")
    image = Image.open(io.BytesIO(data))
    # timm's own road, up to its last step
    evaluation: Any = transforms.Compose(
        [
            transforms.Resize(128, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(128),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    pictures: list[Picture] = [
        EncodedImage(data),
        Pixels(np.asarray(image)),
        Tensor(evaluation(image).numpy()),
    ]
    try:
        alone = [(await classifier.classify([picture]))[0] for picture in pictures]
        together = await classifier.classify(pictures)
        pipeline = classifier.pipeline
        assert (pipeline.engine, pipeline.device) == ("torch", "cpu")
        assert pipeline.queue_depth == 0
    finally:
        await classifier.close()
    assert not classifier.pipeline.healthy
    for answer in [*alone, *together]:
        np.testing.assert_allclose(answer.probabilities, alone[0].probabilities, atol=1e-6)
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-6)
        assert answer.verdict == alone[0].verdict
        fake = classifier.manifest.label_names.index("fake")
        assert answer.fake_prob == pytest.approx(answer.probabilities[fake])


async def test_answers_keep_the_order_and_get_the_bundles_verdict(manifest: Manifest) -> None:
    async with running(manifest) as classifier:
        answers = await classifier.classify([red(255), red(0), red(64), red(128)])
        assert await classifier.classify([]) == []
    fake = [
        1 / (1 + math.exp(-2 * value / 100 / manifest.temperature)) for value in (255, 0, 64, 128)
    ]
    assert [answer.fake_prob for answer in answers] == pytest.approx(fake, abs=1e-6)
    assert [answer.verdict for answer in answers] == ["fake", "uncertain", "fake", "fake"]


# Pictures that cannot be classified


async def test_the_first_bad_picture_of_several_is_named(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    bad = EncodedImage(saved(noise(), "PNG")[:4000])
    worse = EncodedImage(b"<svg/>" * 10)
    async with running(manifest) as classifier:
        with pytest.raises(InvalidImage, match=r"^image\[1\]: "):
            await classifier.classify([red(1), bad, worse, red(2)])
        with pytest.raises(UnsupportedMedia, match=r"^(?!image\[)"):
            await classifier.classify([worse])
        assert len(await classifier.classify([red(1)])) == 1
    assert caplog.records == []


async def test_a_bad_picture_is_told_without_waiting_for_the_others(
    manifest: Manifest, slow: SlowPicture
) -> None:
    async with running(manifest) as classifier:
        with pytest.raises(UnsupportedMedia, match=r"^image\[0\]: "):
            await classifier.classify([EncodedImage(b"<svg/>" * 10), slow.picture])
        assert classifier.admission.inside == 0
        slow.ready.set()


async def test_a_later_failure_of_the_same_request_is_nobodys_news(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = SlowPicture(InvalidImage("damaged")), SlowPicture(InvalidImage("as well"))
    second.ready.set()
    async with running(manifest) as classifier:
        request = asyncio.create_task(classifier.classify([first.picture, second.picture]))
        await first.until_opened()
        first.ready.set()
        assert second.opened.wait(PATIENCE_S)  # before the loop hears of the first
        with pytest.raises(InvalidImage, match=r"^image\[0\]: damaged"):
            await request
    # asyncio complains of an error that nobody fetched when it is thrown away.
    del request, first, second
    gc.collect()
    assert caplog.records == []


async def test_a_later_failure_leaves_no_picture_behind(manifest: Manifest) -> None:
    """Its traceback leads to it, and is in a future that is in the traceback's frames."""
    first, second = SlowPicture(InvalidImage("damaged")), SlowPicture(InvalidImage("as well"))
    second.ready.set()
    kept = weakref.ref(second)
    gc.disable()
    try:
        async with running(manifest, workers=2) as classifier:
            request = asyncio.create_task(classifier.classify([first.picture, second.picture]))
            await second.until_opened()
            backlog = classifier.pipeline.costs.undecoded
            await asyncio.to_thread(
                eventually, lambda: backlog() == 1 or None, PATIENCE_S, "the second to fail"
            )
            first.ready.set()
            await asyncio.wait([request])
            error = request.exception()
            assert isinstance(error, InvalidImage)
            let_go(error)  # as whoever answers it does
        del request, error, second
        assert kept() is None
    finally:
        gc.enable()


async def test_a_tensor_of_another_size_is_refused_with_the_right_one(manifest: Manifest) -> None:
    async with running(manifest) as classifier:
        with pytest.raises(InvalidRequest, match=r"shape \(3, 128, 128\)"):
            await classifier.classify([Tensor(np.zeros((3, 128, 64), np.float32))])


async def test_a_bug_in_decoding_is_not_taken_for_a_stop(manifest: Manifest) -> None:
    """A client told to retry elsewhere would carry the bug from replica to replica."""
    slow = SlowPicture(RecursionError())
    slow.ready.set()
    async with running(manifest) as classifier:
        with pytest.raises(RecursionError):
            await classifier.classify([slow.picture])


# Load


async def test_pictures_beyond_max_pictures_are_refused_until_there_is_room(
    manifest: Manifest, slow: SlowPicture
) -> None:
    async with running(manifest, max_pictures=3) as classifier:
        with pytest.raises(Overloaded):
            await classifier.classify([red(1)] * 4)
        first = asyncio.create_task(classifier.classify([slow.picture, red(1)]))
        await slow.until_opened()
        with pytest.raises(Overloaded):
            await classifier.classify([red(1), red(2)])
        slow.ready.set()
        assert len(await first) == 2
        assert len(await classifier.classify([red(1)] * 3)) == 3


async def test_a_cancelled_request_gives_its_place_back(
    manifest: Manifest, slow: SlowPicture
) -> None:
    never = SlowPicture()
    async with running(manifest, max_pictures=2) as classifier:
        first = asyncio.create_task(classifier.classify([slow.picture, never.picture]))
        await slow.until_opened()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        second = asyncio.create_task(classifier.classify([red(1), red(2)]))
        slow.ready.set()
        assert len(await second) == 2
    assert not never.opened.is_set()


# Deadlines


async def test_a_past_deadline_costs_no_decoding(manifest: Manifest, slow: SlowPicture) -> None:
    async with running(manifest) as classifier:
        with pytest.raises(DeadlineExceeded):
            await classifier.classify([slow.picture], deadline=time.monotonic())
    assert not slow.opened.is_set()


async def test_a_deadline_is_kept_while_the_decoders_are_busy(
    manifest: Manifest, slow: SlowPicture
) -> None:
    late = SlowPicture()
    async with running(manifest) as classifier:
        busy = asyncio.create_task(classifier.classify([slow.picture]))
        await slow.until_opened()
        with pytest.raises(DeadlineExceeded):  # while the only decoder is still held
            await classifier.classify([late.picture], deadline=time.monotonic() + 0.02)
        slow.ready.set()
        assert len(await busy) == 1
    assert not late.opened.is_set()


async def test_a_picture_whose_turn_comes_too_late_is_not_decoded(
    manifest: Manifest, slow: SlowPicture
) -> None:
    """The loop may be the last to know: the decoder looks at the clock itself."""
    late, behind = SlowPicture(), SlowPicture()
    behind.ready.set()
    deadline = time.monotonic() + 0.05
    async with running(manifest) as classifier:
        busy = asyncio.create_task(classifier.classify([slow.picture]))
        await slow.until_opened()
        request = asyncio.create_task(classifier.classify([late.picture], deadline=deadline))
        last = asyncio.create_task(classifier.classify([behind.picture]))
        await asyncio.sleep(0)  # both are queued; from here on the loop sees nothing
        while time.monotonic() <= deadline:
            pass
        slow.ready.set()
        assert behind.opened.wait(PATIENCE_S)
        assert not late.opened.is_set()
        with pytest.raises(DeadlineExceeded):
            await request
        await busy
        await last


# The end


async def test_close_gives_not_ready_to_what_is_being_decoded_and_what_waits_for_it(
    manifest: Manifest, slow: SlowPicture
) -> None:
    async with running(manifest) as classifier:
        decoding = asyncio.create_task(classifier.classify([slow.picture]))
        await slow.until_opened()
        never = SlowPicture()
        waiting = asyncio.create_task(classifier.classify([never.picture, red(2)]))
        await asyncio.sleep(0)
        await classifier.close()
        with pytest.raises(NotReady):
            await classifier.classify([red(3)])
        slow.ready.set()
        for task in (decoding, waiting):
            with pytest.raises(NotReady):
                await task
    assert not never.opened.is_set()  # the process ends only when its decoders have


# Batches


@pytest.mark.parametrize(("gains_by", "largest"), [(None, 4), (2, 2), (5, 4)])
async def test_no_larger_batch_is_formed_than_the_engine_gains_by(
    gains_by: int | None, largest: int, settings: Settings, manifest: Manifest
) -> None:
    seen: list[int] = []
    all_wait = threading.Event()

    class Gated(Reds):
        largest_batch = gains_by

        def forward(self, batch: EngineInput) -> NDArray[np.float32]:
            seen.append(len(batch))
            assert all_wait.wait(PATIENCE_S)
            return super().forward(batch)

    classifier = build_classifier(manifest, Gated(), settings)
    queue = classifier.pipeline
    try:
        task = asyncio.create_task(classifier.classify([red(value) for value in range(12)]))
        others_wait = partial(
            eventually,
            lambda: (bool(seen) and queue.queue_depth == 12 - seen[0]) or None,
            PATIENCE_S,
            "all others to wait for the first forward",
        )
        await asyncio.to_thread(others_wait)
        all_wait.set()
        await task
    finally:
        all_wait.set()
        await classifier.close()
    assert max(seen) == largest
