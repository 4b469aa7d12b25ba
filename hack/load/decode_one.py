"""One picture through a decode pool, without a server or a network around it."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

from predictor.inference.decode_pool import DecodePool, Job, Result
from predictor.inference.pictures import Picture


async def decode_one(pool: DecodePool, picture: Picture, deadline: float | None = None) -> Result:
    """Decode one picture for its own sake. Raises WireError."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Result | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def then(outcome: Result | BaseException) -> None:
        loop.call_soon_threadsafe(settle, outcome)

    job = Job(picture, deadline, future, copy_context(), then)
    pool.submit([job])
    try:
        return await future
    finally:
        pool.withdraw([job])
