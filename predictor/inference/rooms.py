"""How many pictures the device has memory for at once, as far as is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from predictor.inference.delivery import Kind

GROW_AFTER: Final = 100
"""Full batches that fit before a larger one is tried again: a failed try costs one forward."""


@dataclass(slots=True)
class _Room:
    size: int
    fitted: int = 0


class Rooms:
    """One for each kind of picture: they differ in size.

    Args:
        largest: most pictures in one forward, whatever would fit.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rooms: dict[Kind, _Room] = {}

    def size(self, kind: Kind) -> int:
        return self._of(kind).size

    def halve(self, kind: Kind, batch_size: int) -> int:
        """Learn that a batch did not fit; return how large one may be from now on."""
        smaller = max(1, batch_size // 2)
        self._rooms[kind] = _Room(smaller)
        return smaller

    def fitted(self, kind: Kind, batch_size: int) -> None:
        """Memory may have been short for a moment only: try more again, but seldom."""
        room = self._of(kind)
        room.fitted += batch_size == room.size
        if room.fitted == GROW_AFTER:
            self._rooms[kind] = _Room(min(2 * room.size, self._largest))

    def _of(self, kind: Kind) -> _Room:
        return self._rooms.setdefault(kind, _Room(self._largest))
