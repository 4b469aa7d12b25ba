"""One caller's promises: when they are due, how long they are kept, and how many there can be."""

from __future__ import annotations

import pytest

from predictor.inference.comebacks import Comebacks


def test_promises_are_told_apart_and_end() -> None:
    line = Comebacks()
    assert not line.keep(0.0)
    told = [line.promise(9.0, 10.0, apart_s=0.1, not_before=0.0) for _ in range(3)]
    assert told == pytest.approx([10.0, 10.1, 10.2])
    assert not line.keep(9.9)
    assert line.keep(10.15)
    assert line.keep(10.15)
    assert not line.keep(10.15), "the third is not due yet"
    assert not line.keep(20.0), "it never came"


def test_who_cannot_be_told_less_than_a_second_is_promised_the_second() -> None:
    line = Comebacks()
    assert line.promise(10.0, 10.0, apart_s=0.1, not_before=11.0) == 11.0
    assert line.promise(10.0, 10.0, apart_s=0.1, not_before=0.0) == pytest.approx(10.1)
    assert line.keep(10.2)
    assert not line.keep(10.9)
    assert line.keep(11.0)


def test_a_full_line_promises_nothing_more() -> None:
    line = Comebacks()
    told = [line.promise(0.0, 0.0, apart_s=1.0, not_before=0.0) for _ in range(1000)]
    assert told[:4] == [0.0, 1.0, 2.0, 3.0]
    assert set(told[4:]) == {3.0}
    assert not line.keep(3.0), "what was due long ago is gone, and nobody was promised the end"


def test_one_large_request_does_not_fill_the_line_for_long() -> None:
    line = Comebacks()
    line.promise(0.0, 0.0, apart_s=60.0, not_before=0.0)
    assert line.promise(3.0, 3.0, apart_s=0.1, not_before=0.0) == 3.0


def test_promises_are_a_millisecond_apart_before_any_cost_is_known() -> None:
    line = Comebacks()
    for _ in range(10_000):
        line.promise(0.0, 0.0, apart_s=0.0, not_before=0.0)
    assert len(line._promised) <= 3001


@pytest.mark.parametrize("apart_s", [0.0, 0.01])
def test_promises_that_nobody_comes_for_are_forgotten(apart_s: float) -> None:
    line = Comebacks()
    for step in range(100_000):
        line.promise(step / 1000, step / 1000 + 0.1, apart_s=apart_s, not_before=0.0)
    assert len(line._promised) <= 4000, "a horizon of them, a millisecond apart"
