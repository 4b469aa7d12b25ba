"""Who is next: callers in turn by weight, each caller's own items first come, first served.

Weighted round robin: a caller of weight 3 is given three items a turn, one of weight 1 one. All
items cost the same here (a picture), so deficits, which the general form needs, never arise.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Not safe for threads: its owner holds a lock, or lives on one event loop.

    Args:
        weights: items a turn, by caller; a caller that is not named has 1.
    """

    def __init__(self, weights: Mapping[str, int] | None = None) -> None:
        self._weights = weights or {}
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()
        self._credit = 0
        """Items the caller in front may still be given in this turn."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Every item, in no promised order."""
        for lane in self._lanes.values():
            yield from lane

    def push(self, caller: str, item: T) -> None:
        lane = self._lanes.get(caller)
        if lane is None:
            lane = self._lanes[caller] = deque()
        lane.append(item)
        self._length += 1

    def peek(self) -> T:
        """The item whose turn it is. Raises StopIteration when there is none."""
        return next(iter(self._lanes.values()))[0]

    def pop(self) -> T:
        """Take the item whose turn it is. Raises StopIteration when there is none."""
        caller = next(iter(self._lanes))
        item = self._take_from(caller)
        self._spend(caller)
        return item

    def take(self, limit: int, fits: Callable[[T], bool]) -> list[T]:
        """Take up to `limit` items that fit, in turn; what does not fit keeps its place."""
        taken: list[T] = []
        passed_over = 0
        while len(taken) < limit and passed_over < len(self._lanes):
            caller, lane = next(iter(self._lanes.items()))
            place = next((place for place, item in enumerate(lane) if fits(item)), None)
            if place is None:
                passed_over += 1
                self._end_turn(caller)
            else:
                passed_over = 0
                taken.append(self._take_from(caller, place))
                self._spend(caller)
        return taken

    def discard(self, gone: Callable[[T], bool]) -> None:
        """Take out every item that is gone."""
        for caller, lane in list(self._lanes.items()):
            kept = deque(item for item in lane if not gone(item))
            self._length -= len(lane) - len(kept)
            if kept:
                self._lanes[caller] = kept
            else:
                self._leave(caller)

    def clear(self) -> list[T]:
        """Empty the queue; return what was in it."""
        items = list(self)
        self._lanes.clear()
        self._length = self._credit = 0
        return items

    def _take_from(self, caller: str, place: int = 0) -> T:
        self._length -= 1
        lane = self._lanes[caller]
        item = lane[place]
        del lane[place]
        return item

    def _spend(self, caller: str) -> None:
        """Account for one item given to the caller in front."""
        if self._credit == 0:
            self._credit = self._weights.get(caller, 1)
        self._credit -= 1
        if not self._lanes[caller]:
            self._leave(caller)
        elif self._credit == 0:
            self._end_turn(caller)

    def _end_turn(self, caller: str) -> None:
        self._lanes.move_to_end(caller)
        self._credit = 0

    def _leave(self, caller: str) -> None:
        if next(iter(self._lanes)) == caller:
            self._credit = 0
        del self._lanes[caller]
