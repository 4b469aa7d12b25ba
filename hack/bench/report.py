"""`docs/benchmarks.md` and its plots, from what was measured; measures nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from hack.bench.contestants import OURS
from hack.bench.figures import Figures, Row
from hack.bench.plots import Bar, bars
from hack.bench.promises import promises
from hack.bench.results import Results

_HEAD: Final = """# Benchmarks

<!-- Made by `make bench` from benchmarks.json; do not edit. -->

This server and its peers on one machine, with the same pictures, weights and preprocessing: one
JPEG of 640x480 and 100 KB in, two probabilities out. Each peer is written as its own documentation
recommends (`hack/bench/peers`), in an environment of its own, and is compared only if its answers
are within 0.001 of ours. Servers run one at a time, in turns; figures are medians over the rounds.

"""
_READING: Final = """## How to read the tables

- **Clients** are in a closed loop: each sends its next request when the last is answered. They
  share the cores with the server, and take the same from each.
- **/s** are good answers a second, and a per cent of the limit. **The limit** is decoding and the
  forward in the best of several shapes, with the better engine, without any server or client.
- **CPU** is what all processes of a server use for one good answer; **client** is how many cores
  the load itself took.
- **Memory** is the proportional set size of all its processes, at most, looked at each second.
- **Obeying Retry-After**: a refused caller waits as long as it is told to; the others ask again
  at once. **Came back** is how many of those who waited were then answered.
- **Start** is from the start of the process until its first good answer by each route.
- **torch** and **onnx** are what computes: the same weights in torch's eager mode, or the bundle's
  own graph in ONNX Runtime. A peer's row with the latter shows what the server alone is worth.

"""


def write(results: Results, directory: Path, *, check: bool) -> bool:
    """Write the page and its plots, or with `check` say whether they are what would be written."""
    files = {directory / "benchmarks.md": page(results)}
    files |= {directory / "images" / name: text for name, text in plots(results).items()}
    if check:
        return all(path.is_file() and path.read_text() == text for path, text in files.items())
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return True


def page(results: Results) -> str:
    networks = list(results.options["networks"])
    parts = [_HEAD, _machine(results), _promised(results), _READING]
    parts += [_network(Figures(results, name), results) for name in networks]
    parts += [_failures(results), _versions(results)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def plots(results: Results) -> dict[str, str]:
    """SVG by file name."""
    most = max(results.options["clients"])
    found = {}
    for network in results.options["networks"]:
        figures = Figures(results, network)
        rows = [row for row in figures.rows if row.deadline_s is None]
        limit = figures.limit()
        if not rows or limit is None or network == "debug":
            continue
        rates = [_bar(results, row, figures.throughput(row, most)) for row in rows]
        waits = [_bar(results, row, _ms(figures.seconds(row, most, "p99"))) for row in rows]
        title = f"{network}, {most} clients: good answers a second (more is better)"
        mark = ("limit without a server", limit[1])
        found[f"bench-{network}-rate.svg"] = bars(title, "/s", rates, mark)
        title = f"{network}, {most} clients: 99th percentile of the wait (less is better)"
        found[f"bench-{network}-wait.svg"] = bars(title, "ms", waits)
    return found


def _machine(results: Results) -> str:
    machine, options = dict(results.machine), results.options
    date = machine.pop("date")
    described = ", ".join(f"{name} {value}" for name, value in machine.items())
    return (
        f"Measured on {date}: {described}. Rounds: {options['rounds']}; windows of "
        f"{options['seconds']:g} s. Again: `{options['command']}`."
    )


def _promised(results: Results) -> str:
    rows = promises(results)
    return "## What is promised\n\n" + _table(("promise", "on", "measured", "kept"), rows)


def _network(figures: Figures, results: Results) -> str:
    limit, most = figures.limit(), max(results.options["clients"])
    if limit is None:
        return ""
    parts = [f"## {figures.network}", _limits(figures, limit)]
    if figures.network != "debug":
        parts += [
            f"![Good answers a second of each server](images/bench-{figures.network}-rate.svg)",
            f"![The wait with each server](images/bench-{figures.network}-wait.svg)",
        ]
    counts = list(results.options["clients"])
    heads = [
        "server",
        "engine",
        "route",
        *(f"{count} client{'s' * (count > 1)}, /s" for count in counts),
    ]
    heads += ["1 client p50", f"{most}: p50", f"{most}: p99", f"CPU at {most}", "client", "errors"]
    plain = [row for row in figures.rows if row.deadline_s is None]
    parts.append(_table(heads, [_row(figures, row, results, limit[1]) for row in plain]))
    parts += [_processes(figures, results), _deadlines(figures, results)]
    parts += [_overloads(figures, results)]
    return "\n\n".join(part for part in parts if part)


def _limits(figures: Figures, best: tuple[str, float]) -> str:
    said = [f"The limit is {_number(best[1])} pictures/s ({best[0]})."]
    for engine in ("onnx", "torch"):
        one, alone = figures.limit(engine), figures.alone_s(engine)
        if one and alone:
            said.append(
                f"{engine}: {_number(one[1])}/s, and {alone * 1000:.1f} ms for one picture alone."
            )
    return " ".join(said)


def _row(figures: Figures, row: Row, results: Results, limit: float) -> list[str]:
    counts = list(results.options["clients"])
    first, most = min(counts), max(counts)
    cells = [results.titles[row.server], row.engine, row.route]
    for count in counts:
        rate = figures.throughput(row, count)
        cells.append("-" if rate is None else f"{_number(rate)} ({rate / limit:.0%})")
    cells += [_shown_ms(figures.seconds(row, first, "p50"))]
    cells += [_shown_ms(figures.seconds(row, most, name)) for name in ("p50", "p99")]
    bad: dict[str, int] = {}
    for count in counts:
        for code, number in figures.bad(row, count).items():
            bad[code] = bad.get(code, 0) + number
    share = figures.client_share(row, most)
    cells += [_shown_ms(figures.cpu_s(row, most)), "-" if share is None else f"{share:.2f}"]
    return [*cells, _codes(bad)]


def _processes(figures: Figures, results: Results) -> str:
    servers = dict.fromkeys((row.server, row.engine) for row in figures.rows)
    rows = []
    for server, engine in servers:
        start, peak = figures.start_s(server, engine), figures.peak_mib(server, engine)
        if start is not None and peak is not None:
            rows.append([results.titles[server], engine, f"{start:.1f} s", f"{peak:.0f} MiB"])
    return _table(("server", "engine", "start", "memory, peak"), rows)


def _deadlines(figures: Figures, results: Results) -> str:
    """What this server does when each request has a deadline, and there are too many of them."""
    rows = []
    for row in (row for row in figures.rows if row.deadline_s is not None):
        for count in results.options["clients"]:
            if figures.cells(row, count):
                goodput = figures.goodput(row, count)
                waits = (figures.seconds(row, count, name) for name in ("p50", "p99", "max"))
                rows.append(
                    [
                        *(row.route, str(count), _number(goodput or 0.0)),
                        *(_shown_ms(wait) for wait in waits),
                        _codes(figures.bad(row, count)),
                        _comebacks(figures, row, count),
                    ]
                )
    if not rows:
        return ""
    deadline = results.options["deadline_s"] * 1000
    head = ("route", "clients", "goodput, /s", "accepted p50", "p99", "max", "refused", "came back")
    return f"With a deadline of {deadline:.0f} ms for each request:\n\n{_table(head, rows)}"


def _comebacks(figures: Figures, row: Row, clients: int) -> str:
    found = figures.came_back(row, clients)
    return "-" if found is None else f"{found[0]} of {found[1]} answered"


def _overloads(figures: Figures, results: Results) -> str:
    rows = [
        [
            f"{load:g}x",
            _number(figures.overload_per_s(load, "sent") or 0.0),
            _number(figures.overload_per_s(load, "good") or 0.0),
            f"{figures.overload_share(load) or 0.0:.0%}",
            _shown_ms(figures.overload_s(load, "accepted_p50_s")),
            _shown_ms(figures.overload_s(load, "accepted_p99_s")),
            _shown_ms(figures.overload_s(load, "refused_p99_s")),
            f"{figures.overload_per_s(load, 'client_cpu_s') or 0.0:.2f}",
            _codes(figures.overload_codes(load)),
        ]
        for load in figures.loads
    ]
    if not rows:
        return ""
    deadline = results.options["deadline_s"] * 1000
    head = ["load", "sent, /s", "goodput, /s", "of capacity", "accepted p50", "p99"]
    head += ["refused p99", "client", "answers"]
    return (
        f"A steady stream of raw bodies, each with a deadline of {deadline:.0f} ms, of so many "
        f"times what the server answers:\n\n{_table(head, rows)}"
    )


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    rows = [
        [results.titles[one.server], one.engine, one.network, str(one.round), _cell(one.why)]
        for one in results.failures
    ]
    return "## Not measured\n\n" + _table(("server", "engine", "network", "round", "why"), rows)


def _versions(results: Results) -> str:
    rows = [
        [results.titles[server], ", ".join(f"{name} {number}" for name, number in found.items())]
        for server, found in results.versions.items()
    ]
    return "## Versions\n\n" + _table(("server", "packages"), rows)


def _bar(results: Results, row: Row, value: float | None) -> Bar:
    label = f"{results.titles[row.server]}, {row.route}, {row.engine}"
    return Bar(label, value or 0.0, row.server == OURS)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _codes(counts: dict[str, int]) -> str:
    return ", ".join(f"{code}: {count}" for code, count in sorted(counts.items())) or "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _shown_ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{_number(seconds * 1000)} ms"
