"""What a run of the benchmark found, as it lies in `docs/benchmarks.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Limit:
    """Without a server. Attributes: shapes: pictures a second; alone_s: one picture, median."""

    network: str
    engine: str
    round: int
    shapes: dict[str, float]
    alone_s: float

    @property
    def best(self) -> tuple[str, float]:
        return max(self.shapes.items(), key=lambda shape: shape[1])


@dataclass(frozen=True, slots=True)
class Start:
    """One process of a server, with all of its children.

    Attributes:
        answer_s: from its start to its first good answer.
        peak_bytes: proportional set size, looked at each second of its whole life.
    """

    server: str
    network: str
    engine: str
    round: int
    answer_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One window. Attributes: seconds: of the good answers; by `p50`, `p90`, `p99` and `max`.

    cpu_s and client_cpu_s: what the server and the client used of the cores meanwhile.
    came_back: requests of callers who had been refused and waited as told; and how many of those
    were answered.
    """

    server: str
    network: str
    engine: str
    route: str
    deadline_s: float | None
    clients: int
    round: int
    taken_s: float
    good: int
    in_time: int | None
    codes: dict[str, int]
    seconds: dict[str, float | None]
    cpu_s: float
    client_cpu_s: float
    came_back: int = 0
    came_back_good: int = 0


@dataclass(frozen=True, slots=True)
class Overload:
    """A stream of requests, whatever becomes of them; each with the run's deadline.

    Attributes:
        load: times the capacity, which is what this server answered to a closed loop.
        good: answers within the deadline.
    """

    network: str
    round: int
    load: float
    capacity: float
    taken_s: float
    sent: int
    good: int
    codes: dict[str, int]
    accepted_p50_s: float | None
    accepted_p99_s: float | None
    refused_p99_s: float | None
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A server that could not be measured, and why."""

    server: str
    network: str
    engine: str
    round: int
    why: str


@dataclass(slots=True)
class Results:
    """Attributes: titles and versions: by server; machine and options: as the report shows them."""

    machine: dict[str, str]
    options: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    overloads: list[Overload] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Results(
        **{name: found[name] for name in ("machine", "options", "titles", "versions")},
        limits=[Limit(**one) for one in found["limits"]],
        starts=[Start(**one) for one in found["starts"]],
        cells=[Cell(**one) for one in found["cells"]],
        overloads=[Overload(**one) for one in found["overloads"]],
        failures=[Failure(**one) for one in found["failures"]],
    )
