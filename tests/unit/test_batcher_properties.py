"""Thousands of requests at once: each gets its own answers, whatever the others do."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import pytest

from predictor.errors import InvalidImage, WireError
from predictor.inference.batcher import Batcher
from predictor.inference.delivery import answers_of
from tests.unit.gated_engine import Engine, picture

REQUESTS = 1500
LOOPS = 2


@dataclass(slots=True)
class Request:
    """Attributes: lifetime_s: from its arrival to its deadline; cancel_after: turns of the loop."""

    numbers: list[int]
    floats: bool
    decode_turns: int
    lifetime_s: float | None
    cancel_after: int | None
    undecodable: bool
    outcome: list[int] | str = ""


@dataclass(slots=True)
class Traffic:
    """Random requests over numbers that occur once."""

    seed: int
    poison: set[int] = field(default_factory=set)

    def requests(self, base: int) -> list[Request]:
        rng = random.Random(self.seed + base)
        made: list[Request] = []
        number = base
        for _ in range(REQUESTS):
            numbers = list(range(number, number := number + rng.randint(1, 4)))
            self.poison.update(n for n in numbers if rng.random() < 0.01)
            made.append(
                Request(
                    numbers,
                    floats=rng.random() < 0.3,
                    decode_turns=rng.randint(0, 5),
                    lifetime_s=rng.choice([None, None, None, -1.0, 0.0, 0.002, 0.02, 60.0]),
                    cancel_after=rng.randint(0, 12) if rng.random() < 0.2 else None,
                    undecodable=rng.random() < 0.05,
                )
            )
        return made


async def ask(batcher: Batcher, request: Request) -> list[int]:
    deadline = None if request.lifetime_s is None else time.monotonic() + request.lifetime_s
    with batcher.expect(len(request.numbers), deadline=deadline) as items:
        for item, number in zip(items, request.numbers, strict=True):
            for _ in range(request.decode_turns):
                await asyncio.sleep(0)
            if request.undecodable:
                batcher.fail(item, InvalidImage("damaged"))
            else:
                batcher.put(item, picture(number, floats=request.floats))
        answers = await answers_of(items)
    return [int(answer[0]) for answer in answers]


async def live(batcher: Batcher, request: Request) -> None:
    task = asyncio.create_task(ask(batcher, request))
    if request.cancel_after is not None:
        for _ in range(request.cancel_after):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        request.outcome = "CANCELLED"
    elif isinstance(error := task.exception(), WireError):
        request.outcome = error.code
    else:
        request.outcome = task.result()


async def live_all(batcher: Batcher, requests: list[Request]) -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for index, request in enumerate(requests):
            group.create_task(live(batcher, request))
            if index % 20 == 0:
                await asyncio.sleep(0)


def allowed(request: Request, poison: set[int]) -> list[list[int] | str]:
    """How a request may end; only its own nature counts."""
    ends: list[list[int] | str] = []
    if request.cancel_after is not None:
        ends.append("CANCELLED")
    if request.lifetime_s is not None and request.lifetime_s < 60:
        ends.append("DEADLINE_EXCEEDED")
    if request.undecodable:
        return [*ends, "INVALID_IMAGE"]
    if request.lifetime_s is not None and request.lifetime_s <= 0:
        return ends
    return [*ends, "INTERNAL" if poison & set(request.numbers) else request.numbers]


@pytest.mark.parametrize(("seed", "lanes", "at_once"), [(1, 1, 1), (2, 2, 2), (3, 2, 1)])
async def test_answers_are_ones_own_under_cancellations_deadlines_and_faults(
    seed: int, lanes: int, at_once: int
) -> None:
    traffic = Traffic(seed)
    crowds = [traffic.requests(base) for base in range(0, LOOPS * 100_000, 100_000)]
    engine = Engine()
    engine.lanes, engine.at_once = lanes, at_once
    engine.poison, engine.fits = traffic.poison, 11
    # Were one announcement not withdrawn, the batcher would wait an hour for it.
    batcher = Batcher(engine, max_batch_size=32, max_wait_s=3600)
    batcher.start()
    await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, live_all(batcher, crowd)) for crowd in crowds)
    )
    assert batcher.healthy
    assert batcher.queue_depth == 0
    await batcher.stop()

    ran = {number for batch in engine.batches for number in batch}
    for request in (request for crowd in crowds for request in crowd):
        assert request.outcome in allowed(request, traffic.poison), request
        if request.lifetime_s is not None and request.lifetime_s <= 0:
            assert not ran & set(request.numbers), request
    kinds = {str(request.outcome) for crowd in crowds for request in crowd}
    assert kinds >= {"CANCELLED", "INVALID_IMAGE", "DEADLINE_EXCEEDED", "INTERNAL"}
