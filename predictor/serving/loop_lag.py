"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NoReturn

INTERVAL_S: Final = 0.25


async def watch_lag(record: Callable[[float], None]) -> NoReturn:
    """Sleep over and over, and report by how many seconds each sleep was too long."""
    while True:
        due = time.monotonic() + INTERVAL_S  # uvloop's own clock stands still while it is busy
        await asyncio.sleep(INTERVAL_S)
        record(max(0.0, time.monotonic() - due))
