"""The statistics of load: percentiles, windows and when they have settled, and bounds on them."""

from __future__ import annotations

import pytest

from hack.load.samples import BROKEN, Sample, Window, joined, percentile
from hack.load_test.bounds import read_bounds
from hack.load_test.errors import BadBound
from hack.load_test.figures import Figures
from hack.load_test.stability import stable


def window(count: int, seconds: float, *, code: str = "200", taken_s: float = 1.0) -> Window:
    return Window(taken_s, [Sample(code, seconds)] * count)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (0.999, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_of_a_single_value_every_percentile_is_that_value() -> None:
    assert {percentile([7.0], share) for share in (0.0, 0.5, 0.999, 1.0)} == {7.0}


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_a_window_counts_what_was_good_and_what_was_in_time() -> None:
    mixed = joined(
        [
            window(6, 0.1, taken_s=2),
            window(2, 0.4, code="OK", taken_s=1),
            Window(1, [Sample("503", 0.001, 2.0), Sample(BROKEN, 0.0)]),
        ]
    )
    assert mixed.throughput == 8 / 4
    assert mixed.goodput(0.25) == 6 / 4
    assert mixed.errors == pytest.approx(0.2)
    assert mixed.codes == {"200": 6, "OK": 2, "503": 1, BROKEN: 1}
    assert mixed.retry_after_s == [2.0]
    assert mixed.seconds() == [0.1] * 6 + [0.4] * 2, "a refusal's time is not an answer's"
    assert mixed.seconds("503") == [0.001]


def test_a_window_without_requests_is_no_success() -> None:
    assert Window(1.0).errors == 1.0


def test_three_windows_alike_are_stable() -> None:
    assert stable([window(10, 9.0), window(100, 0.1), window(104, 0.105), window(97, 0.1)])


@pytest.mark.parametrize(
    "windows",
    [
        [window(100, 0.1)] * 2,
        [window(100, 0.1), window(100, 0.1), window(130, 0.1)],
        [window(100, 0.1), window(100, 0.1), window(100, 0.2)],
        [window(100, 0.1, code="503")] * 3,
    ],
    ids=["too few", "throughput moves", "p99 moves", "nothing good"],
)
def test_other_windows_are_not(windows: list[Window]) -> None:
    assert not stable(windows)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("p99<250ms", False),
        ("p99<0.2s", False),
        ("p50<100ms", True),
        ("p99.9 < 100.5ms , max<1s", False),
        ("errors<10%", False),
        ("errors<9%", True),
        ("throughput>8", False),
        ("goodput>10/s", True),
        ("", False),
    ],
)
def test_a_bound_is_kept_or_broken(text: str, broken: bool) -> None:
    samples = [*window(10, 0.1).samples, *window(1, 0.001, code="503").samples]
    figures = Figures(Window(1.1, samples), deadline_s=0.25)
    assert any(bound.broken(figures) for bound in read_bounds(text)) is broken


def test_where_nothing_was_good_a_bound_on_time_is_broken() -> None:
    (bound,) = read_bounds("p99<250ms")
    assert "no answer was good" in str(bound.broken(Figures(window(5, 0.01, code="503"), None)))


@pytest.mark.parametrize(
    "text", ["p99", "p99<250", "p99=250ms", "p98<250ms", "errors<1", "goodput>1ms", "p99<-1ms"]
)
def test_what_is_no_bound_is_refused_with_the_fix(text: str) -> None:
    with pytest.raises(BadBound, match="write a name"):
        read_bounds(text)
