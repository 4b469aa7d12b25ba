"""A bound that callers share, so that no one of them can take it all."""

from __future__ import annotations

from collections import Counter
from typing import Final

_PER_FREE_PLACE: Final = 4
"""Places one caller may hold for each that is free.

Dynamic thresholds (Choudhury and Hahne, 1998): one busy caller holds at most 4/5 of the places,
two that came together 4/9 each, and the rest is for newcomers. Nothing has to be taken away.
"""


class Places:
    """Counts what each caller holds. Lives on one event loop.

    Args:
        total: places there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._held: Counter[str] = Counter()

    def held_by(self, caller: str) -> int:
        return self._held[caller]

    def holders(self) -> list[tuple[str, int]]:
        return list(self._held.items())

    def fit(self, caller: str | None, count: int = 1, *, begun: int = 0) -> bool:
        """Whether `count` more may be taken.

        Args:
            caller: None where callers are not told apart; then there is nobody to be fair to.
            begun: places that the same request holds already.
        """
        left = self.total - self.taken - count
        # Whoever holds nothing else yet gets in wherever there is room.
        held = begun if caller is None else self._held[caller]
        return left >= 0 and (held == begun or held + count <= _PER_FREE_PLACE * left)

    def take(self, caller: str | None, count: int = 1, *, begun: int = 0) -> bool:
        """Take `count` places where they `fit`, else none."""
        if not self.fit(caller, count, begun=begun):
            return False
        if caller is not None:
            self._held[caller] += count
        self.taken += count
        return True

    def give_back(self, caller: str | None, count: int = 1) -> None:
        self.taken -= count
        if caller is not None:
            self._held[caller] -= count
            if not self._held[caller]:
                del self._held[caller]
