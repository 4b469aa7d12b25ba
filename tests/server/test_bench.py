"""How the benchmark treats servers: it compares only those that do the same, and cleans up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.bench import contestants
from hack.bench.contestants import Task
from hack.bench.limit import Work
from hack.bench.measuring import (
    Expected,
    Step,
    Times,
    as_cell,
    check_answers,
    measure,
    until_it_answers,
)
from hack.bench.rounds import Plan
from hack.bench.running import Running, ServerFailed, running
from hack.load.server import BUNDLE
from hack.ports import free_port
from predictor.security import api_keys
from tests.server.process import eventually

CPUS = ",".join(map(str, sorted(os.sched_getaffinity(0))))
DEADLINE_S = 20.0
# Ignores that it is asked to end, and has a child in a session of its own that does too.
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
STUBBORN = f"""{DEAF}
import subprocess, sys
code = {DEAF + "time.sleep(600)"!r}
child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Task]]:
    """This server as the benchmark starts it."""
    directory = tmp_path_factory.mktemp("bench")
    key = api_keys.generate()
    (directory / "keys").mkdir()
    (directory / "keys" / "load").write_text(key)
    ports = (free_port(), free_port(), free_port())
    task = Task(BUNDLE, "onnx", *ports, cores=1, keys=directory / "keys", api_key=key)
    command = contestants.ours(DEADLINE_S).command(task)
    environment = contestants.environment(task)
    with running(command, environment, directory / "log", CPUS) as server:
        until_it_answers(server, task, contestants.ours(DEADLINE_S).routes, sample())
        yield server, task


def sample() -> bytes:
    return (BUNDLE / "samples" / "photo-1.jpg").read_bytes()


@pytest.mark.parametrize("number", range(4))
def test_every_route_of_this_server_can_be_measured(
    number: int, started: tuple[Running, Task]
) -> None:
    server, task = started
    step = Step(contestants.ours(DEADLINE_S).routes[number], 2)
    found = measure(server, task, step, sample(), Times(0.5, 0.1))
    cell = as_cell(("realfake", "debug", "onnx"), 1, step, found)
    assert cell.good > 0
    assert set(cell.codes) <= {"200", "OK"}
    assert cell.cpu_s > 0
    assert cell.in_time == (cell.good if step.route.deadline_s else None)


@pytest.mark.parametrize("number", [0, 1])
def test_a_server_that_does_other_work_is_not_compared(
    number: int, started: tuple[Running, Task]
) -> None:
    server, task = started
    route = contestants.ours(DEADLINE_S).routes[number]
    fake = Work(BUNDLE, "onnx").fake_probabilities([sample()])[0]
    check_answers(server, task, route, Expected([sample()], [fake]))
    with pytest.raises(ServerFailed, match="it does other work"):
        check_answers(server, task, route, Expected([sample()], [fake + 0.0011]))
    with pytest.raises(ServerFailed, match="to picture 1"):
        check_answers(server, task, route, Expected([sample(), b"none"], [fake, fake]))


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(
    started: tuple[Running, Task], tmp_path: Path
) -> None:
    _, task = started
    program = [sys.executable, "-c", "print('no port'); raise SystemExit(3)"]
    elsewhere = Task(BUNDLE, "onnx", free_port(), free_port(), 0, 1, tmp_path, task.api_key)
    routes = contestants.ours(DEADLINE_S).routes
    with (
        running(program, os.environ, tmp_path / "log", CPUS) as server,
        pytest.raises(ServerFailed, match=r"ended with 3\n +no port"),
    ):
        until_it_answers(server, elsewhere, routes, sample())


def test_nothing_of_a_server_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hack.bench.running._GRACE_S", 0.5)
    log = tmp_path / "log"
    with running([sys.executable, "-c", STUBBORN], os.environ, log, CPUS) as server:
        child = eventually(lambda: log.read_text().strip() or None, 30, "the child's number")
    assert server.process.returncode == -9
    eventually(lambda: is_gone(int(child)) or None, 30, "the child to be gone")


def is_gone(pid: int) -> bool:
    """Also where nobody has waited for it: a container may have no init that does."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_peers_run_with_each_engine_and_only_this_server_with_a_deadline() -> None:
    plan = Plan(["debug", "resnet18"], ["torch", "onnx"], None, [1, 100], 2, Times(1, 1), 0.25, "0")
    assert [one.name for one, _ in plan.servers("debug")] == ["realfake"]
    servers = plan.servers("resnet18")
    assert len(servers) == 1 + 2 * 5
    steps = plan.steps(servers[0][0])
    assert [step.clients for step in steps if step.route.deadline_s] == [100] * 5
    assert not any(step.route.deadline_s for one, _ in servers[1:] for step in plan.steps(one))
