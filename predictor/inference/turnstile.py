"""The way into decoding: so many pictures at a time, callers in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from predictor.errors import NotReady
from predictor.inference.batcher import STOPPED
from predictor.inference.fair_queue import FairQueue


class Turnstile:
    """A semaphore whose waiters are served in turn by caller. Lives on one event loop.

    Args:
        width: how many may be inside at once.
        weights: see `FairQueue`.
    """

    def __init__(self, width: int, weights: Mapping[str, int] | None = None) -> None:
        self._free = width
        self._closed = False
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(weights)

    async def enter(self, caller: str) -> None:
        """Wait for a place; whoever gets one calls `leave` afterwards.

        Raises:
            NotReady: closed meanwhile.
        """
        if self._closed:
            raise NotReady(STOPPED)
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.push(caller, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.discard(lambda other: other is turn)
            else:  # the place was handed over in the same instant, and nobody will take it
                self.leave()
            raise
        if self._closed:
            raise NotReady(STOPPED)

    def leave(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Turn away whoever waits, and whoever still comes."""
        self._closed = True
        for turn in self._waiting.clear():
            if not turn.done():
                turn.set_result(None)
