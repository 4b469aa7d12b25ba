"""One caller's promises: when they are due, how long they are kept, and how many there can be."""

from __future__ import annotations

import pytest

from predictor.inference.comebacks import Comebacks


def test_promises_are_told_apart_and_end() -> None:
    line = Comebacks()
    assert not line.keep(0.0)
    told = [line.promise(9.0, 10.0, apart_s=0.1, step_s=0.0) for _ in range(3)]
    assert told == pytest.approx([10.0, 10.1, 10.2])
    assert not line.keep(9.9)
    assert line.keep(10.15)
    assert line.keep(10.15)
    assert not line.keep(10.15), "the third is not due yet"
    assert not line.keep(20.0), "it never came"


def test_who_is_told_whole_seconds_is_promised_the_moment_he_will_come() -> None:
    line = Comebacks()
    moments = (10.0, 10.05, 10.2, 10.95)
    told = [line.promise(now, now + 0.05, apart_s=0.1, step_s=1.0) for now in moments]
    assert told == pytest.approx([11.0, 12.05, 11.2, 11.95]), "as far apart as answers are"
    assert line.promise(10.99, 12.5, apart_s=0.1, step_s=1.0) == pytest.approx(12.99), "not sooner"
    assert [line.keep(now) for now in (10.99, 11.01, 11.02, 11.21)] == [False, True, False, True]


def test_of_those_refused_at_once_some_are_promised_other_times() -> None:
    """They could be told three seconds of their own between them; the line has room for more."""
    line = Comebacks()
    told = [line.promise(10.0, 10.05, apart_s=0.1, step_s=1.0) for _ in range(40)]
    assert told[:3] == [11.0, 12.0, 13.0]
    assert told[3:10] == [11.0] * 7, "before that moment is no time that they can be told"
    assert told[10:30] == pytest.approx([11.05 + 0.1 * number for number in range(20)])
    assert told[30:] == pytest.approx([13.05] * 10)


def test_whole_seconds_are_promised_as_far_ahead_as_others() -> None:
    line = Comebacks()
    told = [line.promise(10.0, 13.4, apart_s=0.1, step_s=1.0) for _ in range(4)]
    assert told == pytest.approx([14.0, 15.0, 16.0, 13.7])


@pytest.mark.parametrize("step_s", [0.0, 1.0])
def test_a_steady_flow_is_promised_no_more_than_its_share(step_s: float) -> None:
    """Thirty refusals a second, of which ten can be promised something."""
    line, kept = Comebacks(), 0
    for number in range(600):
        now = 10.0 + number / 30
        line.promise(now, now + 0.05, apart_s=0.1, step_s=step_s)
        kept += line.keep(now)
    assert 0.9 * 200 <= kept + len(line._promised) <= 200 + 30, "the line is three seconds long"


def test_a_full_line_promises_nothing_more() -> None:
    line = Comebacks()
    told = [line.promise(0.0, 0.0, apart_s=1.0, step_s=0.0) for _ in range(1000)]
    assert told[:4] == [0.0, 1.0, 2.0, 3.0]
    assert set(told[4:]) == {3.0}
    assert not line.keep(3.0), "what was due long ago is gone, and nobody was promised the end"


def test_one_large_request_does_not_fill_the_line_for_long() -> None:
    line = Comebacks()
    line.promise(0.0, 0.0, apart_s=60.0, step_s=0.0)
    assert line.promise(3.0, 3.0, apart_s=0.1, step_s=0.0) == 3.0


def test_promises_are_a_millisecond_apart_before_any_cost_is_known() -> None:
    line = Comebacks()
    for _ in range(10_000):
        line.promise(0.0, 0.0, apart_s=0.0, step_s=0.0)
    assert len(line._promised) <= 3001


@pytest.mark.parametrize("apart_s", [0.0, 0.01])
def test_promises_that_nobody_comes_for_are_forgotten(apart_s: float) -> None:
    line = Comebacks()
    for step in range(100_000):
        line.promise(step / 1000, step / 1000 + 0.1, apart_s=apart_s, step_s=0.0)
    assert len(line._promised) <= 4000, "a horizon of them, a millisecond apart"
