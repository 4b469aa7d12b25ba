"""The page of the benchmark, from figures that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hack.bench.__main__ import main
from hack.bench.figures import Figures, Row
from hack.bench.plots import Bar, bars
from hack.bench.promises import promises
from hack.bench.report import page, write
from hack.bench.results import Cell, Failure, Limit, Overload, Results, Start, read

NETWORK = "resnet18"
OURS = Row("realfake", "onnx", "raw body")
OBEYING = replace(OURS, route="raw body, obeying Retry-After", deadline_s=0.25)
PEER = Row("litserve", "torch", "JSON")


def cell(
    row: Row, clients: int, per_second: float, *, number: int = 1, wait_s: float = 0.1
) -> Cell:
    good = int(per_second * 10)
    return Cell(
        *(row.server, NETWORK, row.engine, row.route, row.deadline_s, clients, number),
        taken_s=10.0,
        good=good,
        in_time=None if row.deadline_s is None else good // 2,
        codes={"200": good, "503": 7},
        seconds=dict.fromkeys(("p50", "p90", "p99", "max"), wait_s),
        cpu_s=good * 0.02,
        client_cpu_s=0.5,
    )


@pytest.fixture
def results() -> Results:
    found = Results(
        {"date": "2026-01-02", "CPU": "one", "cores": "2"},
        {
            **{"command": "make bench", "networks": [NETWORK], "clients": [1, 100]},
            **{"rounds": 2, "seconds": 10.0, "deadline_s": 0.25},
        },
        titles={"realfake": "realfake", "litserve": "LitServe"},
        versions={"litserve": {"litserve": "0.2", "torch": "2.0"}},
    )
    for number in (1, 2):
        found.limits += [
            Limit(
                NETWORK,
                "onnx",
                number,
                {"2 threads": 90.0 + number * 10, "2 processes": 50.0},
                0.02,
            ),
            Limit(NETWORK, "torch", number, {"2 threads": 60.0}, 0.03),
        ]
        found.starts.append(Start("realfake", NETWORK, "onnx", number, 5.0, number * 2**28))
        found.cells += [
            cell(OURS, 1, 40.0, number=number, wait_s=0.022),
            cell(OURS, 100, 99.0 + number, number=number),
            cell(replace(OURS, deadline_s=0.25), 100, 80.0, number=number, wait_s=0.2),
            replace(
                cell(OBEYING, 100, 190.0, number=number, wait_s=0.2), came_back=10, came_back_good=9
            ),
            cell(PEER, 1, 30.0, number=number),
            cell(PEER, 100, 45.0, number=number, wait_s=1.0),
        ]
    return found


@pytest.fixture
def overloaded(results: Results) -> Results:
    for number, good in ((1, 700), (2, 900), (3, 950)):
        results.overloads.append(
            Overload(
                *(NETWORK, number, 10.0, 100.0, 10.0, 10_000, good),
                codes={"200": good, "503": 10_000 - good},
                accepted_p50_s=0.1,
                accepted_p99_s=0.2,
                refused_p99_s=0.06,
                client_cpu_s=5.0,
            )
        )
    return results


def test_a_stream_that_nobody_can_answer_is_held_against_the_capacity(overloaded: Results) -> None:
    on = f"{NETWORK}, 10 times the capacity, raw body"
    found = {(row[0], row[1]): row[2:] for row in promises(overloaded)}
    assert found["goodput under a deadline of 250 ms at least 90% of the peak", on] == [
        "90%",
        "yes",
    ]
    assert found["p99 of refusals under 50 ms", on] == ["60 ms", "**no**"]
    assert "| 10x | 1000 | 90.0 | 90% | 100 ms | 200 ms | 60.0 ms | 0.50 |" in page(overloaded)


def test_callers_who_obey_are_held_against_the_peak(results: Results) -> None:
    rows = [row for row in promises(results) if "obeying" in row[1]]
    assert [row[2:] for row in rows] == [
        *(["200 ms", "yes"], ["95 of 100/s: 95%", "yes"]),
        ["18 of 20: 90%", "yes"],
    ]
    assert "| 503: 14 | 18 of 20 answered |" in page(results)


def test_figures_are_medians_over_the_rounds(results: Results) -> None:
    figures = Figures(results, NETWORK)
    assert figures.throughput(OURS, 100) == pytest.approx(100.5)
    assert figures.saturation(OURS) == pytest.approx(100.5)
    assert figures.limit() == ("onnx, 2 threads", 105.0)
    assert figures.limit("torch") == ("torch, 2 threads", 60.0)
    assert figures.goodput(replace(OURS, deadline_s=0.25), 100) == 40.0
    assert figures.cpu_s(OURS, 100) == pytest.approx(0.02)
    assert figures.peak_mib("realfake", "onnx") == 512
    assert figures.best_peer(100, "torch") == (PEER, 45.0)
    assert figures.best_peer(100, "onnx") is None
    assert figures.bad(OURS, 100) == {"503": 14}


def test_promises_are_held_against_them(results: Results) -> None:
    kept = {row[0].split(" of ")[0]: row[3] for row in promises(results)}
    assert set(kept.values()) == {"yes"}
    assert len(kept) == 6


@pytest.mark.parametrize(
    ("worse", "promise"),
    [
        (cell(OURS, 100, 90.0), "throughput"),
        (cell(OURS, 100, 89.0), "at least 2 times"),
        (cell(OURS, 1, 40.0, wait_s=0.025), "idle latency"),
        (cell(replace(OURS, deadline_s=0.25), 100, 80.0, wait_s=0.25), "p99"),
        (
            replace(cell(OBEYING, 100, 190.0), came_back=10, came_back_good=8),
            "at least 90% of who comes back",
        ),
    ],
)
def test_a_promise_that_is_not_kept_is_shown_so(
    worse: Cell, promise: str, results: Results
) -> None:
    def what(one: Cell) -> tuple[Row, int]:
        return Row(one.server, one.engine, one.route, one.deadline_s), one.clients

    results.cells = [one for one in results.cells if what(one) != what(worse)] + [worse]
    broken = [one for one in promises(results) if one[3] == "**no**"]
    assert any(one[0].startswith(promise) for one in broken), broken


def test_the_page_has_every_server_its_share_of_the_limit_and_the_machine(results: Results) -> None:
    text = page(results)
    assert "| realfake | onnx | raw body | 40.0 (38%) | 100 (96%) |" in text
    assert "| LitServe | torch | JSON | 30.0 (29%) | 45.0 (43%) |" in text
    assert "| realfake | onnx | 5.0 s | 512 MiB |" in text
    assert "| raw body | 100 | 40.0 | 200 ms | 200 ms | 200 ms | 503: 14 |" in text
    assert "2026-01-02: CPU one, cores 2" in text
    assert "litserve 0.2, torch 2.0" in text
    assert "Not measured" not in text


def test_a_server_that_failed_has_a_row_with_the_reason(results: Results) -> None:
    results.failures.append(Failure("litserve", NETWORK, "onnx", 1, "it ended | with 1"))
    assert "| LitServe | onnx | resnet18 | 1 | it ended \\| with 1 |" in page(results)


def test_written_results_are_read_back_and_render_the_same(
    results: Results, tmp_path: Path
) -> None:
    results.write(tmp_path / "benchmarks.json")
    again = read(tmp_path / "benchmarks.json")
    assert again == results
    assert write(again, tmp_path, check=False)
    assert write(results, tmp_path, check=True)


@pytest.mark.parametrize("stale", ["benchmarks.md", "images/bench-resnet18-rate.svg"])
def test_a_page_or_plot_that_is_stale_is_found(
    stale: str, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write(tmp_path / "benchmarks.json")
    at = ["--output", str(tmp_path)]
    assert main([*at, "--report-only"]) == 0
    assert main([*at, "--check"]) == 0
    (tmp_path / stale).write_text("edited")
    assert main([*at, "--check"]) == 1
    assert "stale" in capsys.readouterr().err


def test_without_results_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--check"]) == 0


def test_the_longest_bar_is_the_largest_value_and_names_are_escaped() -> None:
    drawn = bars("a < b", "/s", [Bar("x & y", 50.0, True), Bar("z", 100.0, False)], ("limit", 80.0))
    assert "a &lt; b" in drawn
    assert "x &amp; y" in drawn
    widths = [float(part.partition('"')[0]) for part in drawn.split(' width="')[2:]]
    assert widths == [205.0, 410.0]
