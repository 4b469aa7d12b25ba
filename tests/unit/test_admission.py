"""What is let in, what is refused, and what a refusal says."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest

from predictor.errors import DeadlineExceeded, Overloaded
from predictor.inference.admission import Admission
from predictor.inference.cost import CostCurve
from predictor.inference.costs import Mean, StagedCosts
from predictor.inference.places import Places


def curve(*points: tuple[int, float]) -> CostCurve:
    made = CostCurve()
    for size, seconds in points:
        made.observe(size, seconds)
    return made


def admission(*points: tuple[int, float], max_pictures: int = 100, undecoded: int = 0) -> Admission:
    """Args: undecoded: of the pictures inside, how many wait for a decoder all the time."""
    forward = curve(*points or ((1, 0.1), (8, 0.4)))
    costs = StagedCosts(
        forward, Mean(), decoders=2, lanes=1, max_batch_size=8, backlog=lambda: undecoded
    )
    return Admission(costs, max_pictures=max_pictures)


def hold(subject: Admission, stack: ExitStack, caller: str | None, pictures: int) -> None:
    stack.enter_context(subject.enter(pictures, caller=caller))


def test_costs_lie_on_lines_between_what_was_seen() -> None:
    made = curve((1, 0.1), (8, 0.4), (32, 1.6))
    assert [made.seconds(size) for size in (1, 8, 20, 32, 64)] == pytest.approx(
        [0.1, 0.4, 1.0, 1.6, 3.2]
    )
    assert CostCurve().seconds(5) == 0.0


def test_costs_follow_what_changes() -> None:
    made = curve(*[(4, 0.1)] * 5, *[(4, 0.5)] * 30)
    assert made.seconds(4) == pytest.approx(0.5, rel=0.01)


def test_an_empty_house_admits_whatever_it_expects() -> None:
    with admission((1, 60.0)).enter(1, deadline=time.monotonic() + 0.1):
        pass


def test_what_would_be_late_is_refused_with_when_to_return() -> None:
    subject = admission()
    with ExitStack() as stack:
        hold(subject, stack, None, 16)  # two batches of eight, 0.4 s each
        subject.check(deadline=time.monotonic() + 4)
        with pytest.raises(Overloaded) as refused:
            subject.check(deadline=time.monotonic() + 1)
        expected = subject.expected_s(1)
        # Half of the time to the deadline is left to what no expectation knows.
        assert refused.value.retry_after_s == pytest.approx((expected - 0.5) * 1.25, rel=0.05)
    subject.check(deadline=time.monotonic() + 1)


@pytest.mark.parametrize(
    ("given_up", "left_s", "later"),
    [
        (DeadlineExceeded("late"), 0.0, True),
        (asyncio.CancelledError(), 0.0, True),
        (asyncio.CancelledError(), 60.0, False),
    ],
    ids=["expired", "cut at its deadline", "hung up"],
)
def test_a_request_that_was_given_up_counts_as_later_than_expected(
    given_up: BaseException, left_s: float, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever notices first that the time is over cancels the rest."""
    subject = admission()
    before = subject.expected_s(1)
    hours = iter(range(1000))  # a clock by which everything takes an hour
    monkeypatch.setattr(
        "predictor.inference.admission.time", SimpleNamespace(monotonic=lambda: 3600 * next(hours))
    )
    deadline = time.monotonic() + left_s
    for _ in range(20):
        with pytest.raises(type(given_up)), subject.enter(1, deadline=deadline):
            raise given_up
    assert (subject.expected_s(1) > 1.5 * before) is later


def test_all_pictures_of_a_request_have_room_or_none() -> None:
    subject = admission(max_pictures=10)
    with ExitStack() as stack:
        hold(subject, stack, None, 8)
        with pytest.raises(Overloaded):
            stack.enter_context(subject.enter(3))
        hold(subject, stack, None, 2)
        assert subject.inside == 10
    assert subject.inside == 0


def test_a_flood_by_one_key_neither_delays_nor_locks_out_another() -> None:
    subject = admission(max_pictures=100, undecoded=80)
    with ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(subject.enter(1, caller="flood"))
        with pytest.raises(Overloaded):
            stack.enter_context(subject.enter(1, caller="flood"))
        soon = time.monotonic() + 0.6
        with pytest.raises(Overloaded):
            subject.check(caller="flood", deadline=soon)
        subject.check(caller="other", deadline=soon)
        stack.enter_context(subject.enter(1, caller="other", deadline=soon))


def test_a_failed_request_gives_its_places_back() -> None:
    subject = admission()
    with pytest.raises(ZeroDivisionError), subject.enter(5, caller="a"):
        raise ZeroDivisionError
    assert subject.inside == 0
    assert subject.expected_s(1) == pytest.approx(0.1)


def test_expectations_learn_from_how_far_off_they_were() -> None:
    """Answers that take no time at all, however long they were expected to."""
    subject = admission()
    before = subject.expected_s(1)
    for _ in range(100):
        with subject.enter(1):
            pass
    assert subject.expected_s(1) == pytest.approx(before / 4, rel=0.05)


def test_refused_callers_are_told_to_come_back_one_after_the_other() -> None:
    subject = admission((1, 0.1), (8, 0.4))  # at its best a picture every 50 ms
    told: list[float] = []
    with ExitStack() as stack:
        hold(subject, stack, None, 16)
        for _ in range(60):
            with pytest.raises(Overloaded) as refused:
                subject.check(deadline=time.monotonic() + 1)
            told.append(refused.value.retry_after_s or 0.0)
        with pytest.raises(Overloaded) as refused:
            subject.check(caller="another", deadline=time.monotonic() + 1)
    # Twice as long as if nobody but them asked.
    assert told[4] - told[0] == pytest.approx(4 * 2 * 0.05, rel=0.1)
    # Those who do not obey cannot send away for longer than this who shares their key,
    assert told[-1] - told[0] == pytest.approx(3.0, rel=0.1)
    # and nobody else at all.
    assert refused.value.retry_after_s == pytest.approx(told[0], rel=0.1)


class Clock:
    """Instead of the time module: it stands until it is set."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("predictor.inference.admission.time", made)
    return made


def refused_for(subject: Admission, deadline: float, caller: str | None = None) -> float:
    with pytest.raises(Overloaded) as refused:
        subject.check(deadline=deadline, caller=caller)
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_who_comes_back_when_told_goes_in_front_of_who_comes_unasked(clock: Clock) -> None:
    """The house is full by what a stranger may expect, and not by what there is time for."""
    subject = admission((1, 0.1), (8, 0.4))
    with ExitStack() as stack:
        hold(subject, stack, None, 11)
        wait_s = refused_for(subject, clock.now + 1.4)
        refused_for(subject, clock.now + 1.4)  # it is no use to ask again at once
        clock.now += wait_s
        assert subject.check(deadline=clock.now + 1.4)
        refused_for(subject, clock.now + 1.4)  # one was promised this moment, and one came
        with pytest.raises(Overloaded):
            stack.enter_context(subject.enter(1, deadline=clock.now + 1.4))
        stack.enter_context(subject.enter(1, deadline=clock.now + 1.4, promised=True))
        assert subject.inside == 12


@pytest.mark.parametrize(("deadline_s", "wait_s"), [(0.2, 0.2), (0.24, 0.24), (1.29, 0.25)])
def test_a_refused_caller_is_told_to_wait_as_long_as_for_an_answer(
    clock: Clock, deadline_s: float, wait_s: float
) -> None:
    """Up to some time: it would fit much sooner, by as little as it is late."""
    subject = admission((1, 0.1), (8, 0.4))
    with ExitStack() as stack:
        hold(subject, stack, None, 3 if deadline_s < 1 else 12)
        assert refused_for(subject, clock.now + deadline_s) == pytest.approx(wait_s)


def test_a_promise_does_not_make_up_for_time_that_is_not_there(clock: Clock) -> None:
    subject = admission((1, 0.1), (8, 0.4))
    with ExitStack() as stack:
        hold(subject, stack, None, 30)
        clock.now += refused_for(subject, clock.now + 2)
        refused_for(subject, clock.now + 1)


def test_what_can_never_be_in_time_takes_no_turn_from_what_can(clock: Clock) -> None:
    subject = admission((1, 0.1), (8, 0.4))
    with ExitStack() as stack:
        hold(subject, stack, None, 11)
        first = refused_for(subject, clock.now + 1.4, "shared")
        for _ in range(100):
            assert refused_for(subject, clock.now + 0.05, "shared") >= 0.05
        with pytest.raises(Overloaded):  # thirty-two pictures take 1.6 s
            stack.enter_context(subject.enter(32, caller="shared", deadline=clock.now + 1.5))
        assert refused_for(subject, clock.now + 1.4, "shared") == pytest.approx(first + 0.1)


def test_callers_are_promised_no_more_than_their_turns(clock: Clock) -> None:
    """Alone, a key has half of a picture each 50 ms to promise; beside two others a third of it."""
    apart = []
    for others in ((), ("b", "c")):
        subject = admission((1, 0.1), (8, 0.4))
        with ExitStack() as stack:
            for caller in ("a", *others):
                hold(subject, stack, caller, 12)
            told = [refused_for(subject, clock.now + 1.4, "a") for _ in range(2)]
        apart.append(told[1] - told[0])
    assert apart == pytest.approx([0.1, 0.3])


def test_of_a_burst_no_more_get_in_than_one_by_one(clock: Clock) -> None:
    """All of their heads are judged before the first has come in."""
    deadline = clock.now + 1.75

    def admit(subject: Admission, stack: ExitStack) -> None:
        subject.check_again(deadline=deadline)
        stack.enter_context(subject.enter(1, deadline=deadline))

    def come_in(*, burst: bool) -> int:
        subject = admission((1, 0.1), (8, 0.4))
        with ExitStack() as stack:
            hold(subject, stack, None, 8)
            for _ in range(40 if burst else 0):
                subject.check(deadline=deadline)
            with suppress(Overloaded):
                for _ in range(40):
                    if not burst:
                        subject.check(deadline=deadline)
                    admit(subject, stack)
            return subject.inside

    assert 8 < come_in(burst=True) == come_in(burst=False) < 48


def test_places_are_shared_and_newcomers_find_one() -> None:
    places = Places(100)
    greedy = ["a", "b"]
    for _ in range(100):
        for caller in greedy:
            places.take(caller)
    assert [places.held_by(caller) for caller in greedy] == [44, 44]
    assert all(places.take(f"newcomer {number}") for number in range(12))
    for caller, held in list(places.holders()):
        places.give_back(caller, held)
    assert (places.taken, places.holders()) == (0, [])


def test_without_keys_the_one_caller_may_take_every_place() -> None:
    places = Places(3)
    assert [places.take(None) for _ in range(4)] == [True, True, True, False]
