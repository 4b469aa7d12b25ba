"""From the windows of a run to the figures that the report shows: medians over the rounds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hack.bench.contestants import OURS
from hack.bench.results import Cell, Overload, Results, Start

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One server by one route."""

    server: str
    engine: str
    route: str
    deadline_s: float | None = None


class Figures:
    """Everything is of one network."""

    def __init__(self, results: Results, network: str) -> None:
        self._results = results
        self.network = network
        self._cells = [cell for cell in results.cells if cell.network == network]
        self._overloads = [one for one in results.overloads if one.network == network]

    @property
    def rows(self) -> list[Row]:
        """In the order in which they were measured first."""
        return list(
            dict.fromkeys(Row(c.server, c.engine, c.route, c.deadline_s) for c in self._cells)
        )

    def cells(self, row: Row, clients: int) -> list[Cell]:
        return [
            cell
            for cell in self._cells
            if Row(cell.server, cell.engine, cell.route, cell.deadline_s) == row
            and cell.clients == clients
        ]

    def throughput(self, row: Row, clients: int) -> float | None:
        return _median(cell.good / cell.taken_s for cell in self.cells(row, clients))

    def goodput(self, row: Row, clients: int) -> float | None:
        cells = self.cells(row, clients)
        return _median((cell.in_time or 0) / cell.taken_s for cell in cells)

    def seconds(self, row: Row, clients: int, name: str) -> float | None:
        found = (cell.seconds[name] for cell in self.cells(row, clients))
        return _median(seconds for seconds in found if seconds is not None)

    def cpu_s(self, row: Row, clients: int) -> float | None:
        """Of the server, for each good answer."""
        cells = self.cells(row, clients)
        return _median(cell.cpu_s / cell.good for cell in cells if cell.good)

    def client_share(self, row: Row, clients: int) -> float | None:
        """Cores that the client took."""
        return _median(cell.client_cpu_s / cell.taken_s for cell in self.cells(row, clients))

    def came_back(self, row: Row, clients: int) -> tuple[int, int] | None:
        """How many were answered of those who came back when they were told to, over all rounds."""
        cells = self.cells(row, clients)
        told = sum(cell.came_back for cell in cells)
        return (sum(cell.came_back_good for cell in cells), told) if told else None

    def bad(self, row: Row, clients: int) -> dict[str, int]:
        """How often each code but the good ones, over all rounds."""
        found: dict[str, int] = {}
        for cell in self.cells(row, clients):
            for code, count in cell.codes.items():
                if code not in ("200", "OK"):
                    found[code] = found.get(code, 0) + count
        return found

    def saturation(self, row: Row) -> float | None:
        """Throughput with the number of clients that gives most."""
        counts = {cell.clients for cell in self._cells}
        return max((self.throughput(row, count) or 0.0 for count in counts), default=None)

    def limit(self, engine: str | None = None) -> tuple[str, float] | None:
        """The best shape without a server, and its pictures a second; of the best engine."""
        rates: dict[str, list[float]] = {}
        for limit in self._results.limits:
            if limit.network == self.network and engine in (None, limit.engine):
                for shape, rate in limit.shapes.items():
                    rates.setdefault(f"{limit.engine}, {shape}", []).append(rate)
        found = {shape: statistics.median(several) for shape, several in rates.items()}
        return max(found.items(), key=lambda one: one[1]) if found else None

    def alone_s(self, engine: str) -> float | None:
        return _median(
            limit.alone_s
            for limit in self._results.limits
            if (limit.network, limit.engine) == (self.network, engine)
        )

    def start_s(self, server: str, engine: str) -> float | None:
        return _median(start.answer_s for start in self._starts(server, engine))

    def peak_mib(self, server: str, engine: str) -> float | None:
        found = [start.peak_bytes / MIB for start in self._starts(server, engine)]
        return max(found, default=None)

    def best_peer(self, clients: int, engine: str) -> tuple[Row, float] | None:
        rates = {row: self.throughput(row, clients) or 0.0 for row in self.rows}
        peers = {
            row: rate for row, rate in rates.items() if row.server != OURS and row.engine == engine
        }
        return max(peers.items(), key=lambda one: one[1]) if peers else None

    @property
    def loads(self) -> list[float]:
        return list(dict.fromkeys(one.load for one in self._overloads))

    def overload_share(self, load: float) -> float | None:
        """Goodput, of the capacity."""
        found = self._at(load)
        return _median(one.good / one.taken_s / one.capacity for one in found)

    def overload_per_s(self, load: float, name: str) -> float | None:
        """`sent` or `good`, a second."""
        return _median(getattr(one, name) / one.taken_s for one in self._at(load))

    def overload_s(self, load: float, name: str) -> float | None:
        """One of its attributes in seconds."""
        found = (getattr(one, name) for one in self._at(load))
        return _median(seconds for seconds in found if seconds is not None)

    def overload_codes(self, load: float) -> dict[str, int]:
        found: Counter[str] = Counter()
        for one in self._at(load):
            found.update(one.codes)
        return dict(found)

    def _at(self, load: float) -> list[Overload]:
        return [one for one in self._overloads if one.load == load]

    def _starts(self, server: str, engine: str) -> list[Start]:
        return [
            start
            for start in self._results.starts
            if (start.network, start.server, start.engine) == (self.network, server, engine)
        ]


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
