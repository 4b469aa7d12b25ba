"""What this project says of its speed, held against a run."""

from __future__ import annotations

from hack.bench.contestants import GRPC, OBEYING, OBEYING_MS, OURS, RAW
from hack.bench.figures import Figures, Row
from hack.bench.results import Results

_ENGINE = "onnx"
_PEERS = {
    "torch": "as its own documentation has it (torch)",
    "onnx": "given this engine too (onnx)",
}
"""Both are shown: what a user gets from either, and what the server alone is worth."""
OF_THE_LIMIT = 0.9
OF_THE_BEST_PEER = 2.0
OF_ALONE = 1.2
OF_THE_PEAK = 0.9
REFUSED_S = 0.05
OF_COMEBACKS = 0.9
_OBEYING = {RAW: (OBEYING, OBEYING_MS), GRPC: (OBEYING,)}


def promises(results: Results) -> list[list[str]]:
    """Rows of: promise, on what, measured, kept; of what was measured."""
    found = []
    for network in results.options["networks"]:
        figures = Figures(results, network)
        for route in (RAW, GRPC):
            row = Row(OURS, _ENGINE, route)
            if network != "debug":
                found += [_saturation(figures, row)]
                found += [_peers(figures, row, results, engine) for engine in _PEERS]
            found += [_idle(figures, row), _deadline(figures, row, results)]
            for obeying in (Row(OURS, _ENGINE, route + way) for way in _OBEYING[route]):
                found += [_deadline(figures, obeying, results)]
                found += [_goodput(figures, obeying, row, results)]
                found += [_comebacks(figures, obeying, results)]
        found += _overload(figures, results)
    return [row for row in found if row]


def _saturation(figures: Figures, row: Row) -> list[str]:
    rate, limit = figures.saturation(row), figures.limit()
    if not rate or limit is None:
        return []
    ratio = rate / limit[1]
    measured = f"{rate:.0f} of {limit[1]:.0f}/s: {ratio:.0%}"
    promise = f"throughput at least {OF_THE_LIMIT:.0%} of the limit without a server"
    return [promise, _on(figures, row), measured, _kept(ratio >= OF_THE_LIMIT)]


def _peers(figures: Figures, row: Row, results: Results, engine: str) -> list[str]:
    most = max(results.options["clients"])
    rate, best = figures.throughput(row, most), figures.best_peer(most, engine)
    if rate is None or best is None or not best[1]:
        return []
    peer, other = best
    ratio = rate / other
    measured = f"{ratio:.1f} times {results.titles[peer.server]} ({peer.route}, {other:.0f}/s)"
    times = f"at least {OF_THE_BEST_PEER:g} times the best peer"
    promise = f"{times} {_PEERS[engine]}, {most} clients"
    return [promise, _on(figures, row), measured, _kept(ratio >= OF_THE_BEST_PEER)]


def _idle(figures: Figures, row: Row) -> list[str]:
    wait, alone = figures.seconds(row, 1, "p50"), figures.alone_s(_ENGINE)
    if wait is None or alone is None:
        return []
    ratio = wait / alone
    measured = f"{wait * 1000:.1f} of {alone * 1000:.1f} ms: {ratio:.2f}"
    promise = f"idle latency within {OF_ALONE:g} times of decoding and the forward alone"
    return [promise, _on(figures, row), measured, _kept(ratio <= OF_ALONE)]


def _deadline(figures: Figures, row: Row, results: Results) -> list[str]:
    deadline, most = results.options["deadline_s"], max(results.options["clients"])
    hurried = Row(row.server, row.engine, row.route, deadline)
    wait = figures.seconds(hurried, most, "p99")
    if wait is None:
        return []
    promise = (
        f"p99 of accepted answers under a deadline of {deadline * 1000:.0f} ms, {most} clients"
    )
    return [promise, _on(figures, row), f"{wait * 1000:.0f} ms", _kept(wait < deadline)]


def _goodput(figures: Figures, row: Row, unhurried: Row, results: Results) -> list[str]:
    """Of callers who come back when they are told to."""
    deadline, most = results.options["deadline_s"], max(results.options["clients"])
    hurried = Row(row.server, row.engine, row.route, deadline)
    rate, peak = figures.goodput(hurried, most), figures.saturation(unhurried)
    if rate is None or not peak:
        return []
    promise = f"goodput under that deadline at least {OF_THE_PEAK:.0%} of the peak, {most} clients"
    measured = f"{rate:.0f} of {peak:.0f}/s: {rate / peak:.0%}"
    return [promise, _on(figures, row), measured, _kept(rate / peak >= OF_THE_PEAK)]


def _comebacks(figures: Figures, row: Row, results: Results) -> list[str]:
    most = max(results.options["clients"])
    hurried = Row(row.server, row.engine, row.route, results.options["deadline_s"])
    found = figures.came_back(hurried, most)
    if found is None:
        return []
    good, all_ = found
    promise = (
        f"at least {OF_COMEBACKS:.0%} of who comes back when told to is answered, {most} clients"
    )
    measured = f"{good} of {all_}: {good / all_:.0%}"
    return [promise, _on(figures, row), measured, _kept(good / all_ >= OF_COMEBACKS)]


def _overload(figures: Figures, results: Results) -> list[list[str]]:
    found = []
    deadline = f"{results.options['deadline_s'] * 1000:.0f} ms"
    for load in figures.loads:
        share, refused = figures.overload_share(load), figures.overload_s(load, "refused_p99_s")
        if share is None:
            continue
        on = f"{figures.network}, {load:g} times the capacity, {RAW}"
        promise = f"goodput under a deadline of {deadline} at least {OF_THE_PEAK:.0%} of the peak"
        found.append([promise, on, f"{share:.0%}", _kept(share >= OF_THE_PEAK)])
        if refused is not None:
            promise = f"p99 of refusals under {REFUSED_S * 1000:.0f} ms"
            found.append([promise, on, f"{refused * 1000:.0f} ms", _kept(refused < REFUSED_S)])
    return found


def _on(figures: Figures, row: Row) -> str:
    return f"{figures.network}, {row.route}"


def _kept(kept: bool) -> str:
    return "yes" if kept else "**no**"
