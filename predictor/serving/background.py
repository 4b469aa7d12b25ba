"""Work that takes seconds, in a thread that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_unless(stop: asyncio.Event, work: Callable[[], T], name: str) -> T | None:
    """What `work` returns or raises; None when `stop` is set first.

    Args:
        name: of the thread, which then goes on, and does not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[Any], None], outcome: object) -> None:
        if not done.cancelled():
            settled(outcome)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            loop.call_soon_threadsafe(settle, done.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, done.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    stopped = asyncio.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {done, stopped}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if done.done():
        return done.result()
    done.cancel()
    return None
