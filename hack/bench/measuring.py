"""Ask one server by each of its routes, with more and more clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import uvloop

from hack.bench.contestants import Route, Task
from hack.bench.results import Cell
from hack.bench.running import Running
from hack.load import heap
from hack.load.loops import ClosedLoop, OpenLoop
from hack.load.process_tree import ProcessTree
from hack.load.samples import GOOD, Answer, Window, percentile

TOLERANCE: Final = 1e-3
"""Of probabilities; a server that is further off does other work, and is not compared."""
_START_LIMIT_S: Final = 180.0
_POLL_S: Final = 0.05
_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Expected:
    """Pictures and the probability of fake of each; the first one is sent as load."""

    pictures: Sequence[bytes]
    fake: Sequence[float]


@dataclass(frozen=True, slots=True)
class Times:
    """Attributes: window_s; warm_up_s: before it, at least."""

    window_s: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Which window: a route, and how many clients."""

    route: Route
    clients: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Which window: a route, and how many requests a second."""

    route: Route
    per_second: float


def until_it_answers(server: Running, task: Task, routes: Sequence[Route], picture: bytes) -> float:
    """Seconds from its start until it gave a good answer by every route.

    Raises:
        ServerFailed: it ended, or took too long.
    """
    for route in routes:
        while (answer := _run(_ask(route, task, picture))).code not in GOOD:
            server.check()
            if time.monotonic() - server.began > _START_LIMIT_S:
                raise server.failed(f"{route.name} answered {answer.code} after {_START_LIMIT_S} s")
            time.sleep(_POLL_S)
    return time.monotonic() - server.began


def check_answers(server: Running, task: Task, route: Route, expected: Expected) -> None:
    """Raises: ServerFailed: it answers differently from the predictor's own engine."""
    for number, (picture, fake) in enumerate(zip(expected.pictures, expected.fake, strict=True)):
        answer = _run(_ask(route, task, picture))
        if answer.code not in GOOD:
            raise server.failed(f"{route.name} answered {answer.code} to picture {number}")
        found = route.read(answer.body)
        if not abs(found - fake) <= TOLERANCE:
            raise server.failed(
                f"{route.name} answered {found:.4f} to picture {number}, and {fake:.4f} is right: "
                "it does other work, and is not compared"
            )


def measure(
    server: Running, task: Task, step: Step, picture: bytes, times: Times
) -> tuple[Window, float, float]:
    """A window, and the CPU seconds that the server and this client used in it.

    Raises:
        ServerFailed: it ended meanwhile.
    """
    found = _run(_measure(server.tree, task, step, picture, times))
    server.check()
    return found


async def _measure(
    tree: ProcessTree, task: Task, step: Step, picture: bytes, times: Times
) -> tuple[Window, float, float]:
    caller = step.route.caller(task, picture)
    loop = ClosedLoop(caller, step.clients, obeys=step.route.obeys)
    loop.start()
    await loop.warm_up(times.warm_up_s)
    cpu, own = tree.cpu_s(), time.process_time()
    window = await loop.window(times.window_s)
    cpu, own = tree.cpu_s() - cpu, time.process_time() - own
    await loop.stop()
    await caller.close()
    return window, cpu, own


def overload(
    server: Running, task: Task, stream: Stream, picture: bytes, window_s: float
) -> tuple[Window, float]:
    """A window of a steady stream, and the CPU seconds that this client used in it.

    Raises:
        ServerFailed: the server ended meanwhile.
    """
    found = _run(_overload(task, stream, picture, window_s))
    server.check()
    return found


async def _overload(
    task: Task, stream: Stream, picture: bytes, window_s: float
) -> tuple[Window, float]:
    caller = stream.route.caller(task, picture)
    loop = OpenLoop(caller, stream.per_second)
    loop.start()
    await loop.warm_up(1.0)
    own = time.process_time()
    window = await loop.window(window_s)
    own = time.process_time() - own
    await loop.stop()
    await caller.close()
    return window, own


async def _ask(route: Route, task: Task, picture: bytes) -> Answer:
    caller = route.caller(task, picture)
    answer = await caller.ask()
    await caller.close()
    return answer


def _run(work: Coroutine[Any, Any, T]) -> T:
    with heap.set_aside(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def as_cell(
    names: tuple[str, str, str], number: int, step: Step, found: tuple[Window, float, float]
) -> Cell:
    """Args: names: server, network, engine; number: of the round."""
    window, cpu_s, client_cpu_s = found
    ordered = window.seconds()
    deadline_s = step.route.deadline_s
    return Cell(
        *names,
        route=step.route.name,
        deadline_s=deadline_s,
        clients=step.clients,
        round=number,
        taken_s=window.taken_s,
        good=len(ordered),
        in_time=None if deadline_s is None else sum(one <= deadline_s for one in ordered),
        codes=dict(sorted(window.codes.items())),
        seconds={name: percentile(ordered, share) for name, share in _SHARES.items()},
        cpu_s=cpu_s,
        client_cpu_s=client_cpu_s,
        came_back=len(window.came_back),
        came_back_good=sum(window.came_back),
    )
