"""What a picture that arrives now has to expect, and whether it may come in at all.

A request that will miss its deadline is cheapest to refuse before anything was done for it, and
its caller is best served by knowing at once. The expectation comes from what decoding and
forwards have cost lately, times how far off such expectations have been; it also prices
`Retry-After`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from predictor.errors import DeadlineExceeded, Overloaded
from predictor.inference.comebacks import Comebacks
from predictor.inference.costs import Costs
from predictor.inference.delivery import is_late
from predictor.inference.places import Places

_MEMORY: Final = 0.05
"""Weight of the newest answer in what expectations were off by: the last sixty count for 95 %."""
_ERROR_BOUNDS: Final = (0.25, 4.0)
"""Farthest that one answer may say the expectation was off: a stall is not the rule."""
_TELLING_S: Final = 0.005
"""Shorter expectations are not learned from: scheduling noise is as long."""
_SOONEST_RETRY_S: Final = 0.05
_UNHURRIED_S: Final = 0.25
"""As long as it may wait for an answer, up to this, a refused caller can wait before it asks again:
those who come sooner are mostly refused again, and each refusal takes time of the answers."""
_STEP_BY_ANY_PROTOCOL_S: Final = 1.0
"""What a time to retry is rounded up to where it is not known which protocol will tell it."""
_COMEBACK_SHARE: Final = 0.5
"""How much of what is answered is promised to refused requests that come back; the rest is for
those who ask for the first time. `make bench` says how many of those who come back find a place."""
_SAFE_SHARE: Final = 0.5
"""How much of the time to its deadline a request may be expected to take. A longer queue answers
no more pictures; it only answers them closer to where they are worth nothing."""
_PROMISED_SHARE: Final = 0.65
"""The same for a request whose time was promised: it goes in front of those that come unasked."""
_AT_LEAST: Final = 1.5
"""What a request that was given up would have taken, in times of what it had."""
_SPREAD: Final = 1.25
"""How much longer than expected a refused caller is told to wait, so that it then succeeds."""


class Admission:
    """Counts pictures from admission to answer. Lives on one event loop, like its callers.

    Args:
        costs: what answers cost.
        max_pictures: most pictures inside; shared between callers (`Places`).
        weights: turns by caller; see `FairQueue`.
    """

    def __init__(
        self,
        costs: Costs,
        *,
        max_pictures: int,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        self._costs = costs
        self._weights = weights or {}
        self._places = Places(max_pictures)
        self._error = 1.0
        self._comebacks: defaultdict[str | None, Comebacks] = defaultdict(Comebacks)

    @property
    def inside(self) -> int:
        """Pictures that were admitted and not yet answered."""
        return self._places.taken

    def expected_s(self, pictures: int = 1, caller: str | None = None) -> float:
        """Seconds until `pictures` that arrive now would be answered."""
        return self._bare_s(pictures, caller) * self._error

    def check(
        self,
        *,
        caller: str | None = None,
        deadline: float | None = None,
        retry_step_s: float = 0.0,
    ) -> bool:
        """Refuse a request, of which only the head is known, that could not be answered by
        `deadline` (`time.monotonic()`) even if it held one picture.

        An empty house admits everybody: only an answer can show that an expectation was too high.
        While decoders and lanes have nothing else to do, only the bare costs count: answers may be
        late for reasons that refusing does not mend, such as the refusals themselves.

        Args:
            retry_step_s: its protocol rounds what it tells up to multiples of this; 0 where not.

        Returns:
            Whether it is let in because it was promised this moment; `enter` has to know.

        Raises:
            Overloaded: with the time after which a retry should succeed.
        """
        if deadline is None or self.inside == 0:
            return False
        now = time.monotonic()
        remaining, takes = deadline - now, self._takes_s(1, caller)
        late = takes - self._allowed_s(remaining, _SAFE_SHARE)
        if late <= 0:
            return False
        in_time = takes <= self._allowed_s(remaining, _PROMISED_SHARE)
        if not (in_time and self._comebacks[caller].keep(now)):
            raise self._would_be_late(late, 1, caller, remaining, retry_step_s)
        return True

    def check_again(
        self,
        pictures: int = 1,
        *,
        caller: str | None = None,
        deadline: float | None = None,
        promised: bool = False,
    ) -> None:
        """Refuse what has passed `check`, where others have come in since.

        Args:
            promised: what `check` said of its head.

        Raises:
            Overloaded: as `check`.
        """
        if deadline is None or self.inside == 0:
            return
        remaining = deadline - time.monotonic()
        share = _PROMISED_SHARE if promised else _SAFE_SHARE
        late = self._takes_s(pictures, caller) - self._allowed_s(remaining, share)
        if late > 0:
            raise self._would_be_late(late, pictures, caller, remaining)

    @contextmanager
    def enter(
        self,
        pictures: int,
        *,
        caller: str | None = None,
        deadline: float | None = None,
        promised: bool = False,
    ) -> Iterator[None]:
        """Hold places for the pictures of one request: all of them, or none.

        Args:
            promised: what `check` said of its head.

        Raises:
            Overloaded: they would be late, or there is no room.
        """
        self.check_again(pictures, caller=caller, deadline=deadline, promised=promised)
        if not self._places.take(caller, pictures):
            raise Overloaded(
                "too many pictures are waiting already; retry later",
                retry_after_s=self._turn_s(
                    max(_SOONEST_RETRY_S, self.expected_s(pictures) * _SPREAD),
                    pictures,
                    caller,
                    _STEP_BY_ANY_PROTOCOL_S,
                ),
                reason="pictures",
            )
        undecoded = self._costs.undecoded() + pictures  # these are not in the pool yet
        expected = self._cost_s(self._ahead_of(caller, 0, undecoded), undecoded)
        arrived = time.monotonic()
        try:
            yield
            self._learn(expected, time.monotonic() - arrived)
        except (DeadlineExceeded, asyncio.CancelledError):
            # What is late, and whoever notices it first, would have taken longer still; not to
            # learn from it would be to learn from the lucky ones only.
            if is_late(deadline):
                self._learn(expected, _AT_LEAST * (time.monotonic() - arrived))
            raise
        finally:
            self._places.give_back(caller, pictures)

    @property
    def _has_idle(self) -> bool:
        """Whether a decoder or a lane has nothing to do."""
        return self.inside < self._costs.at_once

    def _takes_s(self, pictures: int, caller: str | None) -> float:
        """Seconds an answer is expected to take, for the sake of deciding about it."""
        return self._bare_s(pictures, caller) * (1.0 if self._has_idle else self._error)

    def _allowed_s(self, remaining: float, share: float) -> float:
        """How much of the remaining seconds an answer may be expected to take."""
        return remaining if self._has_idle else share * remaining

    def _would_be_late(
        self,
        late: float,
        pictures: int,
        caller: str | None,
        remaining: float,
        step_s: float = _STEP_BY_ANY_PROTOCOL_S,
    ) -> Overloaded:
        retry_after_s = max(_SOONEST_RETRY_S, late * _SPREAD, min(remaining, _UNHURRIED_S))
        alone = self._cost_s(pictures, undecoded=self.inside)  # as if nothing inside were decoded
        if alone > remaining:  # whenever it comes: it takes nobody's turn
            retry_after_s = max(retry_after_s, step_s)
        else:
            retry_after_s = self._turn_s(retry_after_s, pictures, caller, step_s)
        return Overloaded(
            "the answer could not be ready within the request's deadline; retry later",
            retry_after_s=retry_after_s,
            reason="late",
        )

    def _turn_s(self, earliest_s: float, pictures: int, caller: str | None, step_s: float) -> float:
        """Seconds until a turn of its own, no sooner than in `earliest_s`."""
        now = time.monotonic()
        turn = self._comebacks[caller].promise(
            now,
            now + earliest_s,
            apart_s=pictures * self._costs.pace_s() / (_COMEBACK_SHARE * self._share_of(caller)),
            step_s=step_s,
        )
        return turn - now

    def _share_of(self, caller: str | None) -> float:
        """Of the turns, among those who are inside."""
        if caller is None:
            return 1.0
        weights = {name: self._weights.get(name, 1) for name, _ in self._places.holders()}
        own = weights[caller] = self._weights.get(caller, 1)
        return own / sum(weights.values())

    def _bare_s(self, pictures: int, caller: str | None) -> float:
        undecoded = self._costs.undecoded()
        return self._cost_s(self._ahead_of(caller, pictures, undecoded) + pictures, undecoded)

    def _ahead_of(self, caller: str | None, pictures: int, undecoded: int) -> float:
        """Pictures inside that will be answered before the last of `pictures` of `caller`."""
        if caller is None:
            return self.inside
        own = self._places.held_by(caller)
        turns = (own + pictures) / self._weights.get(caller, 1)
        others = 0.0
        if own < self.inside:
            others = sum(
                min(held, turns * self._weights.get(name, 1))
                for name, held in self._places.holders()
                if name != caller
            )
        # What has been decoded already, and what is being decoded, no longer waits for its turn.
        begun = self.inside - undecoded + min(undecoded, self._costs.decoders)
        return max(own + others, begun)

    def _cost_s(self, pictures: float, undecoded: int) -> float:
        """Seconds to answer so many pictures, when so many of those inside are not decoded."""
        return self._costs.seconds(pictures, self.inside - undecoded)

    def _learn(self, expected: float, took: float) -> None:
        if expected < _TELLING_S:
            return
        low, high = _ERROR_BOUNDS
        error = min(high, max(low, took / expected))
        self._error += _MEMORY * (error - self._error)
