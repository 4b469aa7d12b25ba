"""The order of a benchmark: rounds of networks of servers of routes of clients, one at a time."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hack.bench import contestants
from hack.bench.contestants import OURS, PEER_CONTESTANTS, RAW, Contestant, Task
from hack.bench.environments import NotInstalled, install
from hack.bench.machine import versions_of
from hack.bench.measuring import (
    Expected,
    Step,
    Stream,
    Times,
    as_cell,
    check_answers,
    measure,
    overload,
    until_it_answers,
)
from hack.bench.results import Cell, Failure, Limit, Overload, Results, Start
from hack.bench.running import Running, ServerFailed, running
from hack.load.bundles import bundle_of
from hack.load.pictures import photo
from hack.load.samples import GOOD, percentile
from hack.load.server import BUNDLE, ROOT
from hack.ports import free_port
from predictor.security import api_keys

LOGS: Final = ROOT / ".run" / "bench" / "logs"
DEFAULT: Final = "onnx"
"""The engine that this server takes by itself on a CPU."""
LOADS: Final = (1.0, 2.0, 5.0, 10.0)
"""Times the capacity, in the stream that nobody can answer whole."""
_BUSY: Final = 32
"""Clients from which on a deadline has something to refuse."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes: only: names of servers, None for all; cpus: as `taskset` has them."""

    networks: Sequence[str]
    engines: Sequence[str]
    only: set[str] | None
    clients: Sequence[int]
    rounds: int
    times: Times
    deadline_s: float
    cpus: str

    def shown(self) -> dict[str, Any]:
        return {
            **{"networks": list(self.networks), "clients": list(self.clients)},
            **{
                "rounds": self.rounds,
                "seconds": self.times.window_s,
                "deadline_s": self.deadline_s,
            },
        }

    def servers(self, network: str) -> list[tuple[Contestant, str]]:
        """With which engine each; the debug bundle is there for this server's own sake."""
        found = [(contestants.ours(self.deadline_s), DEFAULT)]
        if network != "debug":
            found += [(peer, engine) for peer in PEER_CONTESTANTS for engine in self.engines]
        return [one for one in found if self.only is None or one[0].name in self.only]

    def steps(self, contestant: Contestant) -> list[Step]:
        return [
            Step(route, clients)
            for clients in self.clients
            for route in contestant.routes
            if route.deadline_s is None or clients >= _BUSY
        ]


class Rounds:
    """Args: directory: for bundles and keys; partial: written after each server."""

    def __init__(self, plan: Plan, results: Results, directory: Path, partial: Path) -> None:
        self._plan = plan
        self._results = results
        self._directory = directory
        self._partial = partial
        self._missing: dict[str, str] = {}
        self._picture_files = _pictures(directory)
        self._expected: dict[str, Expected] = {}
        self._done = 0
        self._all = plan.rounds * sum(
            len(plan.steps(server)) for name in plan.networks for server, _ in plan.servers(name)
        )
        self._began = time.monotonic()

    def run(self) -> None:
        contestants_by_name = {
            server.name: server
            for network in self._plan.networks
            for server, _ in self._plan.servers(network)
        }
        for contestant in contestants_by_name.values():
            self._prepare(contestant)
        bundles = {name: bundle_of(name, self._directory) for name in self._plan.networks}
        self._began = time.monotonic()
        for number in range(1, self._plan.rounds + 1):
            for network, bundle in bundles.items():
                servers = self._plan.servers(network)
                for engine in dict.fromkeys((DEFAULT, *(engine for _, engine in servers))):
                    self._limit(network, bundle, engine, number)
                # The other way round each second time: being early or late is no advantage.
                for contestant, engine in servers if number % 2 else reversed(servers):
                    self._server(contestant, network, bundle, engine, number)
                    self._results.write(self._partial)

    def _prepare(self, contestant: Contestant) -> None:
        self._results.titles[contestant.name] = contestant.title
        try:
            if contestant.name != OURS:
                install(contestant)
            self._results.versions[contestant.name] = versions_of(contestant)
        except NotInstalled as error:
            print(f"{contestant.title} cannot be installed: {error}", file=sys.stderr)
            self._missing[contestant.name] = f"cannot be installed: {error}"

    def _limit(self, network: str, bundle: Path, engine: str, number: int) -> None:
        print(f"round {number}, {network}: {engine} without a server", flush=True)
        command = [
            *(sys.executable, "-m", "hack.bench.limit", "--bundle", str(bundle)),
            *("--engine", engine, "--seconds", str(max(1.0, self._plan.times.window_s / 2))),
            *("--pictures", *map(str, self._picture_files)),
        ]
        log = LOGS / f"limit-{engine}-{network}.log"
        with running(command, os.environ, log, self._plan.cpus) as child:
            if child.process.wait():
                raise SystemExit(str(child.failed("measuring without a server failed")))
        found = json.loads(log.read_text().splitlines()[-1])
        limit = Limit(network, engine, number, found["shapes"], found["alone_s"])
        self._results.limits.append(limit)
        pictures = [path.read_bytes() for path in self._picture_files]
        self._expected[network] = Expected(pictures, found["fake"])
        shape, rate = limit.best
        print(f"  {rate:.0f}/s with {shape}; one picture {limit.alone_s * 1000:.1f} ms", flush=True)

    def _server(
        self, contestant: Contestant, network: str, bundle: Path, engine: str, number: int
    ) -> None:
        steps = self._plan.steps(contestant)
        last = self._done + len(steps)
        try:
            if contestant.name in self._missing:
                raise ServerFailed(self._missing[contestant.name])
            with tempfile.TemporaryDirectory() as keys:
                task = self._task(bundle, engine, Path(keys))
                log = LOGS / f"{contestant.name}-{engine}-{network}.log"
                with running(
                    contestant.command(task), contestants.environment(task), log, self._plan.cpus
                ) as server:
                    self._measure(server, contestant, network, task, number)
        except ServerFailed as error:
            print(f"{contestant.title}, {engine}: {error}", file=sys.stderr, flush=True)
            why = str(error).splitlines()[0]
            self._results.failures.append(Failure(contestant.name, network, engine, number, why))
        self._done = last

    def _measure(
        self, server: Running, contestant: Contestant, network: str, task: Task, number: int
    ) -> None:
        expected = self._expected[network]
        plain = [route for route in contestant.routes if route.deadline_s is None]
        answer_s = until_it_answers(server, task, plain, expected.pictures[0])
        names = (contestant.name, network, task.engine)
        with server.tree.peak_memory() as peak:
            for route in plain:
                check_answers(server, task, route, expected)
            for step in self._plan.steps(contestant):
                found = measure(server, task, step, expected.pictures[0], self._plan.times)
                cell = as_cell(names, number, step, found)
                self._results.cells.append(cell)
                self._done += 1
                self._tell(cell)
            if contestant.name == OURS:
                self._overload(server, contestant, network, task, number)
        self._results.starts.append(Start(*names, number, answer_s, peak[0]))

    def _overload(
        self, server: Running, contestant: Contestant, network: str, task: Task, number: int
    ) -> None:
        """This server only: those that never refuse would be given ever longer queues."""
        capacity = max(
            cell.good / cell.taken_s
            for cell in self._results.cells
            if (cell.server, cell.network, cell.round) == (OURS, network, number)
            and (cell.route, cell.deadline_s) == (RAW, None)
        )
        [route] = (one for one in contestant.routes if one.name == RAW and one.deadline_s)
        picture, deadline_s = self._expected[network].pictures[0], self._plan.deadline_s
        for load in LOADS:
            stream = Stream(route, load * capacity)
            window, own_s = overload(server, task, stream, picture, self._plan.times.window_s)
            accepted, refused = window.seconds(), window.seconds("503")
            good = sum(seconds <= deadline_s for seconds in accepted)
            self._results.overloads.append(
                Overload(
                    *(network, number, load, capacity, window.taken_s, len(window.samples), good),
                    codes=dict(sorted(window.codes.items())),
                    accepted_p50_s=percentile(accepted, 0.5),
                    accepted_p99_s=percentile(accepted, 0.99),
                    refused_p99_s=percentile(refused, 0.99),
                    client_cpu_s=own_s,
                )
            )
            print(
                f"{network}, {load:g} times {capacity:.0f}/s: {good / window.taken_s:.0f}/s within "
                f"{deadline_s * 1000:.0f} ms",
                flush=True,
            )

    def _tell(self, cell: Cell) -> None:
        left_s = (time.monotonic() - self._began) / self._done * (self._all - self._done)
        p99 = cell.seconds["p99"]
        deadline = f" within {cell.deadline_s * 1000:.0f} ms" if cell.deadline_s else ""
        bad = {code: count for code, count in cell.codes.items() if code not in GOOD}
        print(
            f"[{self._done}/{self._all}, {left_s / 60:.0f} min left] {cell.network}, "
            f"{cell.server} {cell.engine}, {cell.route}{deadline}, {cell.clients} clients: "
            f"{cell.good / cell.taken_s:.1f}/s, p99 "
            f"{'-' if p99 is None else f'{p99 * 1000:.0f} ms'}{f', {bad}' if bad else ''}",
            flush=True,
        )

    def _task(self, bundle: Path, engine: str, keys: Path) -> Task:
        key = api_keys.generate()
        (keys / "load").write_text(key)
        cores = len(_cpus(self._plan.cpus))
        return Task(bundle, engine, free_port(), free_port(), free_port(), cores, keys, key)


def _cpus(listed: str) -> set[int]:
    """`0,2-3` as numbers."""
    found: set[int] = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _pictures(directory: Path) -> list[Path]:
    """A photograph's worth of work to send, and more to compare answers by."""
    load = directory / "load.jpg"
    load.write_bytes(photo(640, 480, 90))
    return [load, *sorted((BUNDLE / "samples").glob("*.jpg"))]
