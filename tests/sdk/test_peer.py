"""A handler ends when nobody waits for its answer any more, and for no other reason."""

from __future__ import annotations

import asyncio

import pytest

from predictor.errors import NotReady
from predictor.serving.edge import run
from predictor.serving.http import ClientDisconnected, HttpResponse
from predictor.serving.peer import Peer


async def forever() -> HttpResponse:
    await asyncio.Event().wait()
    raise AssertionError("nothing sets it")


async def begun() -> tuple[asyncio.Task[HttpResponse], Peer]:
    """A handler that waits, and who is listened to meanwhile."""
    listening = asyncio.Event()
    peer = Peer(listening.set)
    task = asyncio.create_task(run(forever(), peer))
    await listening.wait()
    return task, peer


async def test_what_nobody_waits_for_is_not_begun() -> None:
    peer = Peer(lambda: None)
    peer.hang_up()
    with pytest.raises(ClientDisconnected):
        await run(forever(), peer)


async def test_what_nobody_waits_for_any_more_ends() -> None:
    task, peer = await begun()
    peer.hang_up()
    with pytest.raises(ClientDisconnected):
        await task
    assert not task.cancelled()


async def test_a_stop_in_the_moment_of_a_hang_up_is_a_stop() -> None:
    task, peer = await begun()
    peer.hang_up()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_cancelled_from_below_is_answered() -> None:
    async def cancelled() -> HttpResponse:
        raise asyncio.CancelledError

    with pytest.raises(NotReady):
        await run(cancelled(), Peer(lambda: None))


async def test_who_hangs_up_after_the_answer_ends_nothing() -> None:
    async def answer() -> HttpResponse:
        return HttpResponse(b"")

    peer = Peer(lambda: None)
    await run(answer(), peer)
    peer.hang_up()
    await asyncio.sleep(0)
