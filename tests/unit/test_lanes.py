"""Processes that decode and run the network: what one does to a picture, its group never pays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predictor.bundle.graph import open_graph
from predictor.bundle.manifest import Manifest, read_golden_vectors
from predictor.errors import (
    BundleError,
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    InvalidRequest,
    NotReady,
    Overloaded,
    UnsupportedMedia,
    WireError,
)
from predictor.inference.classifier import load_classifier
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_wire import Network, Terms, files_of
from predictor.inference.decoding import DecodeLimits, decode, prepare
from predictor.inference.delivery import answers_of
from predictor.inference.lanes import LanePipeline
from predictor.inference.observer import Observer
from predictor.inference.pictures import EncodedImage, Picture, Pixels, Tensor
from predictor.inference.timeline import Timeline
from predictor.settings import Settings
from tests import faults, pictures
from tests.processes import alive, descendants, threads
from tests.server.process import eventually
from tests.unit import decoders

DEBUG = Path(__file__).parents[2] / "checkpoints" / "debug"
PATIENCE_S = 30.0


def network_of(graph: Path, manifest: Manifest) -> Network:
    return Network(graph, manifest.num_classes, 4, files_of(graph))


def terms(manifest: Manifest, **changes: Any) -> Terms:
    network = network_of(manifest.path / "model.onnx", manifest)
    usual = replace(decoders.terms(), preprocessing=manifest.preprocessing, network=network)
    return replace(usual, **changes)


class Seen(Observer):
    """Remembers the size of every forward."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.kinds: list[set[object]] = []

    def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
        assert began <= ended
        self.batches.append(len(pictures))
        self.kinds.append({picture.origin for picture in pictures})


@contextlib.asynccontextmanager
async def running(
    limits: Terms, *, workers: int = 1, **options: Any
) -> AsyncIterator[LanePipeline]:
    lanes = LanePipeline(ProcessDecodePool(limits, workers=workers, **options))
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield lanes
    finally:
        await lanes.close()


async def logits(
    lanes: LanePipeline, picture: Picture | bytes, within_s: float = PATIENCE_S
) -> NDArray[np.float32]:
    asked = EncodedImage(picture) if isinstance(picture, bytes) else picture
    deadline = time.monotonic() + within_s
    timeline = Timeline(time.monotonic())
    timeline.origin = type(asked)
    with lanes.run([asked], caller="", deadline=deadline, timeline=timeline) as items:
        [answer] = await answers_of(items)
    return answer


async def together(
    lanes: LanePipeline, *several: bytes, within_s: float = PATIENCE_S
) -> list[NDArray[np.float32] | BaseException]:
    """Ask for all while the lane is at something else, so that they wait for it together."""
    first = asyncio.create_task(logits(lanes, pictures.saved(pictures.noise(900, 700), "PNG")))
    await asyncio.sleep(0)
    answers = await asyncio.gather(
        *(logits(lanes, each, within_s) for each in several), return_exceptions=True
    )
    await first
    return answers


async def test_every_kind_of_picture_is_answered_as_the_graph_does(manifest: Manifest) -> None:
    graph = open_graph(manifest.path / "model.onnx", manifest)
    size = manifest.preprocessing.input_size
    data, array = pictures.jpeg(), np.asarray(pictures.noise(301, 203))
    tensor = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    expected = [
        graph(decode(data, manifest.preprocessing, DecodeLimits())[np.newaxis]),
        graph(prepare(array, manifest.preprocessing, DecodeLimits())[np.newaxis]),
        graph(tensor[np.newaxis]),
    ]
    async with running(terms(manifest)) as lanes:
        sent: list[Picture] = [EncodedImage(data), Pixels(array), Tensor(tensor)]
        for picture, [row] in zip(sent, expected, strict=True):
            np.testing.assert_allclose(await logits(lanes, picture), row, atol=1e-5)


async def test_pictures_that_wait_share_a_forward_and_none_is_mixed_up(manifest: Manifest) -> None:
    several = [pictures.saved(pictures.noise(80 + n, 90), "PNG") for n in range(11)]
    async with running(terms(manifest)) as lanes:
        alone = [await logits(lanes, each) for each in several]
        lanes.observer = seen = Seen()
        answers: Any = await together(lanes, *several)
    assert max(seen.batches) == 4
    assert sum(seen.batches) == len(several) + 1
    np.testing.assert_allclose(answers, alone, atol=1e-5)


async def test_a_tensor_shares_no_forward_with_pixels(manifest: Manifest) -> None:
    size = manifest.preprocessing.input_size
    mixed: list[Picture] = []
    for number in range(8):
        if number % 4 > 1:
            mixed.append(EncodedImage(pictures.jpeg()))
        else:
            mixed.append(Tensor(np.full((3, *size), number / 10, np.float32)))
    async with running(terms(manifest)) as lanes:
        alone = [await logits(lanes, each) for each in mixed]
        lanes.observer = seen = Seen()
        answers = await asyncio.gather(*(logits(lanes, each) for each in mixed))
    assert max(seen.batches) > 1
    assert {len(kinds) for kinds in seen.kinds} == {1}
    np.testing.assert_allclose(answers, alone, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(
    ("data", "error", "words"), [*faults.COSTS, (b"no picture", UnsupportedMedia, "JPEG")]
)
async def test_what_breaks_a_lane_costs_its_own_picture_wherever_it_stands_in_its_group(
    place: int, data: bytes, error: type[WireError], words: str, manifest: Manifest
) -> None:
    good = pictures.jpeg()
    group = [good] * 3
    group.insert(place, data)
    async with running(terms(manifest)) as lanes:
        expected = await logits(lanes, good)
        answers = await together(lanes, *group)
        again = await logits(lanes, good)
    broken = answers.pop(place)
    assert isinstance(broken, error), broken
    with pytest.raises(error, match=words):
        raise broken
    good_answers: Any = [*answers, again]
    np.testing.assert_allclose(good_answers, [expected] * 4, atol=1e-5)


async def test_who_was_with_the_one_at_fault_is_answered_before_who_came_later(
    manifest: Manifest,
) -> None:
    answered: list[str] = []

    async def ask(lanes: LanePipeline, name: str, data: bytes) -> None:
        with contextlib.suppress(InvalidImage):
            await logits(lanes, data)
        answered.append(name)

    good = pictures.jpeg()
    async with running(terms(manifest)) as lanes:
        await logits(lanes, good)
        names = ["alone", "at fault", *(f"with it {n}" for n in range(3))]
        names += [f"later {n}" for n in range(8)]
        await asyncio.gather(
            *(ask(lanes, name, faults.CRASH if name == "at fault" else good) for name in names)
        )
    assert [name for name in answered if name.startswith(("with", "later"))] == names[2:]


async def test_an_observer_that_fails_costs_no_answer(manifest: Manifest) -> None:
    class Failing(Observer):
        def forwarded(self, pictures: Sequence[Timeline], began: float, ended: float) -> None:
            raise RuntimeError

        def waited(self, seconds: Sequence[float]) -> None:
            raise RuntimeError

    async with running(terms(manifest)) as lanes:
        lanes.observer = Failing()
        for _ in range(3):
            assert len(await logits(lanes, pictures.jpeg())) == manifest.num_classes


async def test_a_picture_that_hangs_is_ended_at_its_deadline(manifest: Manifest) -> None:
    async with running(terms(manifest)) as lanes:
        with pytest.raises(DeadlineExceeded):
            await logits(lanes, faults.HANG, within_s=0.2)
        assert len(await logits(lanes, pictures.jpeg())) == manifest.num_classes
        assert lanes.healthy


async def test_a_lane_that_says_nothing_is_given_up(manifest: Manifest) -> None:
    """Stopped, as it might hang in the network: its own alarm does not end it."""
    before = descendants(os.getpid())
    async with running(terms(manifest), patience_s=0.2) as lanes:
        await logits(lanes, pictures.jpeg())
        [lane] = {pid for pid in descendants(os.getpid()) - before if not descendants(pid)}
        os.kill(lane, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            await logits(lanes, pictures.jpeg(), within_s=0.1)
        await logits(lanes, pictures.jpeg())
        eventually(lambda: not alive({lane}) or None, 10, "it to be gone")


async def test_a_lane_is_forked_by_one_thread(manifest: Manifest) -> None:
    """ONNX Runtime is loaded there, and forking a process of several threads is not safe."""
    before = descendants(os.getpid())
    async with running(terms(manifest)) as lanes:
        await logits(lanes, pictures.jpeg())
        [nursery] = {pid for pid in descendants(os.getpid()) - before if descendants(pid)}
        assert threads(nursery) == 1


async def test_a_tensor_of_another_size_is_refused(manifest: Manifest) -> None:
    async with running(terms(manifest)) as lanes:
        with pytest.raises(InvalidRequest, match=r"must have shape \(3, 128, 128\)"):
            await logits(lanes, Tensor(np.zeros((3, 4, 4), np.float32)))
        with pytest.raises(InvalidImage, match="uint8 of shape"):
            await logits(lanes, Pixels(np.zeros((40, 40), np.uint8)))


async def test_what_is_not_a_number_is_no_answer(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    endless = np.full((3, *manifest.preprocessing.input_size), np.inf, np.float32)
    async with running(terms(manifest)) as lanes:
        with pytest.raises(InternalError):
            await logits(lanes, Tensor(endless))
        assert np.isfinite(await logits(lanes, pictures.jpeg())).all()
    assert "NaN or infinity" in caplog.text


async def test_a_cancelled_picture_leaves_the_queue(manifest: Manifest, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with running(terms(manifest)) as lanes:
        await logits(lanes, pictures.jpeg())  # the lane is there, and takes the next one at once
        in_front = asyncio.create_task(logits(lanes, faults.HANG, within_s=0.5))
        await asyncio.sleep(0)
        queued = asyncio.create_task(logits(lanes, faults.TOUCH + str(mark).encode()))
        await asyncio.sleep(0)
        assert lanes.costs.undecoded() == 2
        queued.cancel()
        await asyncio.wait([queued])
        assert lanes.costs.undecoded() == 1
        with pytest.raises(DeadlineExceeded):
            await in_front
        await logits(lanes, pictures.jpeg())
    assert not mark.exists()


async def test_a_closed_pipeline_answers_everybody(manifest: Manifest) -> None:
    async with running(terms(manifest)) as lanes:
        asked = [asyncio.create_task(logits(lanes, faults.HANG)) for _ in range(3)]
        await asyncio.sleep(0.1)
        lanes.abandon()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotReady] * 3
        assert not lanes.healthy
        with pytest.raises(NotReady):
            await logits(lanes, pictures.jpeg())


async def test_the_golden_vectors_are_answered_before_anybody_asks(manifest: Manifest) -> None:
    golden = read_golden_vectors(manifest)
    assert golden is not None
    pool = ProcessDecodePool(terms(manifest), workers=1)
    try:
        graph = open_graph(manifest.path / "model.onnx", manifest)
        np.testing.assert_allclose(
            pool.forward(golden.pixels[:1]), graph(golden.pixels[:1]), atol=1e-5
        )
    finally:
        pool.close()
        await pool.wait_closed()


def test_a_graph_that_cannot_be_run_stops_the_start_and_says_why(
    manifest: Manifest, tmp_path: Path
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    network = network_of(broken, manifest)
    before = descendants(os.getpid())
    with pytest.raises(BundleError, match=r"cannot load it with model\.safetensors"):
        ProcessDecodePool(terms(manifest, network=network), workers=1)
    eventually(lambda: descendants(os.getpid()) <= before or None, 10, "the nursery to end")


async def until_refused(lanes: LanePipeline) -> None:
    while True:
        await logits(lanes, pictures.jpeg())


async def test_a_bundle_that_was_exchanged_is_not_served_under_the_old_name(
    manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lanes' nursery ends, and the next one would load what lies there now."""
    graph = tmp_path / "model.onnx"
    for name in ("model.onnx", "model.safetensors"):
        shutil.copy(manifest.path / name, tmp_path)
    before = descendants(os.getpid())
    async with running(terms(manifest, network=network_of(graph, manifest))) as lanes:
        await logits(lanes, pictures.jpeg())
        shutil.copy(manifest.path / "model.safetensors", tmp_path / "other")
        (tmp_path / "other").replace(tmp_path / "model.safetensors")
        family = descendants(os.getpid()) - before
        [nursery] = {pid for pid in family if descendants(pid)}
        os.kill(nursery, signal.SIGKILL)
        eventually(lambda: not alive(family) or None, 10, "lanes to follow their nursery")
        with pytest.raises(Overloaded, match="no decoder can be started"):
            await until_refused(lanes)
    said = [record.__dict__.get("reason", "") for record in caplog.records]
    assert any("are not those that were verified" in reason for reason in said)


async def test_a_bundle_with_a_graph_is_served_in_lanes_and_one_without_is_not(
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate({"model": {"path": str(DEBUG)}})
    in_threads = Settings.model_validate(
        {"model": {"path": str(DEBUG)}, "decoding": {"mode": "thread"}}
    )
    answers = []
    for each in (settings, in_threads):
        classifier = await asyncio.to_thread(load_classifier, each)
        try:
            assert isinstance(classifier.pipeline, LanePipeline) == (each is settings)
            assert (classifier.pipeline.engine, classifier.pipeline.device) == ("onnx", "cpu")
            [answer] = await classifier.classify([EncodedImage(pictures.jpeg())])
            answers.append(answer.probabilities)
        finally:
            await classifier.close()
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
