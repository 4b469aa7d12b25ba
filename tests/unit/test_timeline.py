"""Where a request's time goes, as the batcher tells it."""

from __future__ import annotations

import asyncio
import time

import pytest

from predictor.errors import WireError
from predictor.inference.observer import Observer
from predictor.inference.timeline import Timeline
from tests.unit.gated_engine import Engine, occupy, picture, running, submit


def stages(timeline: Timeline) -> list[str]:
    return [passage.stage for passage in timeline.passages(time.monotonic())]


def test_stages_follow_each_other_and_add_up() -> None:
    timeline = Timeline(10.0)
    timeline.enter("decode", 10.5)
    timeline.enter("queue", 12.0)
    assert timeline.passages(15.0) == [
        ("receive", 10.0, 10.5),
        ("decode", 10.5, 12.0),
        ("queue", 12.0, 15.0),
    ]


async def test_a_request_is_queued_until_its_last_picture_is_taken() -> None:
    """Two forwards for one request: it is in the queue until the second begins."""
    engine = Engine()
    timeline = Timeline(time.monotonic())
    async with running(engine, max_batch_size=2) as batcher:
        first = await occupy(batcher, engine)
        several = asyncio.create_task(
            submit(batcher, [picture(n) for n in (1, 2, 3)], timeline=timeline)
        )
        await asyncio.sleep(0)
        engine.go()
        await engine.entered()
        began_waiting = time.monotonic()
        engine.go()
        await engine.entered()
        last_began = time.monotonic()
        engine.go()
        await asyncio.gather(first, several)
    passages = {passage.stage: passage for passage in timeline.passages(time.monotonic())}
    assert list(passages) == ["receive", "queue", "forward", "encode"]
    assert began_waiting <= passages["forward"].began <= last_began
    assert timeline.batch_size == 2


async def test_a_request_that_nobody_took_ends_in_the_queue() -> None:
    engine = Engine()
    timeline = Timeline(time.monotonic())
    async with running(engine) as batcher:
        first = await occupy(batcher, engine)
        with pytest.raises(WireError):
            await submit(batcher, [picture(1)], deadline=time.monotonic() + 0.01, timeline=timeline)
        engine.go()
        await first
    assert stages(timeline) == ["receive", "queue"]
    assert timeline.batch_size == 0


async def test_a_request_that_fails_on_the_device_ends_there() -> None:
    engine = Engine()
    engine.poison = {1}
    timeline = Timeline(time.monotonic())
    async with running(engine) as batcher:
        with pytest.raises(WireError):
            await submit(batcher, [picture(1)], timeline=timeline)
    assert stages(timeline) == ["receive", "queue", "forward"]


async def test_an_observer_hears_whose_pictures_were_in_a_forward() -> None:
    heard: list[list[Timeline]] = []

    class Notes(Observer):
        def forwarded(self, pictures: object, began: float, ended: float) -> None:
            assert isinstance(pictures, list)
            assert began <= ended
            heard.append(pictures)

    engine = Engine()
    one, two = Timeline(0.0), Timeline(0.0)
    async with running(engine) as batcher:
        batcher.observer = Notes()
        first = await occupy(batcher, engine)
        engine.free()
        several = submit(batcher, [picture(1), picture(2)], timeline=one)
        await asyncio.gather(first, several, submit(batcher, [picture(3)], timeline=two))
    in_forwards = [timeline for forward in heard[1:] for timeline in forward]
    assert sorted(map(id, in_forwards)) == sorted([id(one), id(one), id(two)])
