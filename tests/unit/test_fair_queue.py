"""Turns: whose item is next, and what that never costs anybody."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from predictor.inference.fair_queue import FairQueue


def queue_of(
    items: list[tuple[str, int]], weights: dict[str, int] | None = None
) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue(weights)
    for item in items:
        queue.push(item[0], item)
    return queue


def drained(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    return [queue.pop() for _ in range(len(queue))]


def even(item: tuple[str, int]) -> bool:
    return item[1] % 2 == 0


def odd(item: tuple[str, int]) -> bool:
    return item[1] % 2 == 1


def test_a_flood_does_not_delay_the_one_who_asks_once() -> None:
    queue = queue_of([("flood", number) for number in range(100)])
    queue.push("once", ("once", 0))
    assert [queue.pop()[0] for _ in range(2)] == ["flood", "once"]


def test_turns_are_as_long_as_weights_say() -> None:
    items = [(name, number) for name in "abc" for number in range(12)]
    order = [name for name, _ in drained(queue_of(items, {"a": 3, "b": 2}))]
    assert "".join(order[:12]) == "aaabbcaaabbc"


def test_an_empty_queue_says_so() -> None:
    queue = queue_of([])
    assert not queue
    with pytest.raises(StopIteration):
        queue.pop()
    assert queue.take(3, lambda item: True) == []


def test_a_turn_that_ends_early_is_not_inherited() -> None:
    queue = queue_of([("a", 0), ("b", 0), ("b", 1), ("c", 0)], {"a": 5})
    assert [name for name, _ in drained(queue)] == ["a", "b", "c", "b"]


def test_what_does_not_fit_keeps_its_place() -> None:
    queue = queue_of([("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5), ("c", 6)])
    assert queue.take(10, even) == [("a", 2), ("b", 4), ("c", 6)]
    assert sorted(drained(queue)) == [("a", 1), ("a", 3), ("b", 5)]


def test_discarding_takes_out_what_is_gone_and_nothing_else() -> None:
    queue = queue_of([(name, number) for name in "abc" for number in range(4)])
    queue.discard(lambda item: item[0] == "a" or item[1] == 2)
    assert len(queue) == 6
    assert sorted(drained(queue)) == [(name, n) for name in "bc" for n in (0, 1, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_doubled_and_the_oldest_goes_first(seed: int) -> None:
    """Random pushes, takes and discards against a plain model of each caller's lane."""
    chance = random.Random(seed)
    weights = {"a": 3, "b": 1, "c": 7}
    queue = queue_of([], weights)
    model: defaultdict[str, list[int]] = defaultdict(list)
    for number in range(2000):
        match chance.randrange(5):
            case 0 | 1 | 2:
                caller = chance.choice("abcd")
                queue.push(caller, (caller, number))
                model[caller].append(number)
            case 3:
                fits = even if chance.randrange(2) else odd
                for caller, value in queue.take(chance.randrange(6), fits):
                    assert value == next(other for other in model[caller] if fits((caller, other)))
                    model[caller].remove(value)
            case _:
                queue.discard(lambda item: item[1] % 7 == 3)
                for lane in model.values():
                    lane[:] = [value for value in lane if value % 7 != 3]
        assert len(queue) == sum(map(len, model.values()))
    for caller, value in drained(queue):
        assert model[caller].pop(0) == value
    assert not any(model.values())


@pytest.mark.parametrize("seed", range(5))
def test_shares_follow_the_weights_while_all_wait(seed: int) -> None:
    chance = random.Random(seed)
    weights = {"a": 1, "b": 2, "c": 5}
    queue = queue_of([(name, n) for name in weights for n in range(1000)], weights)
    given: Counter[str] = Counter()
    while sum(given.values()) < 800:
        given.update(name for name, _ in queue.take(chance.randrange(1, 33), lambda item: True))
    total = sum(given.values())
    for name, weight in weights.items():
        assert abs(given[name] - total * weight / 8) <= weight
