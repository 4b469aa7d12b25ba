"""In a flood, refusals are logged by number instead of one by one.

A line costs more than the rest of a refusal: with one for each, an overloaded server would be busy
saying so, and the log would grow with the load that others decide on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextvars import Context
from typing import Final

log = logging.getLogger("predictor.refusals")

LINES_PER_S: Final = 10
"""Of each code and key: a flood by one must not hide what happened to another. Who shows no key
counts as one."""


class RefusalLog:
    """Lives on the event loop."""

    def __init__(self) -> None:
        self._second = 0.0
        self._lines: Counter[tuple[str, str | None]] = Counter()
        self._left_out: Counter[str] = Counter()

    def has_room(self, code: str, key_id: str | None) -> bool:
        """Whether one more refusal may have its own line; else it is counted."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._second >= 1.0:
            self._second = now
            self._lines.clear()
        if self._lines[code, key_id] < LINES_PER_S:
            self._lines[code, key_id] += 1
            return True
        if not self._left_out:
            # Of no request: else its line would carry this one's ids.
            loop.call_later(1.0, self.flush, context=Context())
        self._left_out[code] += 1
        return False

    def flush(self) -> None:
        """Say how many there were since the last time."""
        if self._left_out:
            log.warning(
                "refusals without a line of their own", extra={"refused": dict(self._left_out)}
            )
            self._left_out.clear()
