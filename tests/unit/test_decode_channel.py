"""The event loop's end of a decoder process, when the other end is one no more."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context

import pytest

from predictor.errors import DeadlineExceeded, InternalError, WireError
from predictor.inference.decode_channel import Channel
from predictor.inference.decode_nursery import DecoderProcess
from predictor.inference.decode_pool import Job, Result
from predictor.inference.decode_wire import DONE, REPLY
from predictor.inference.pictures import EncodedImage
from tests.unit.decoders import MIB, terms


@contextlib.asynccontextmanager
async def channel_to(play: Callable[[socket.socket], None]) -> AsyncIterator[Channel]:
    """A channel to what is no decoder any more, as after a picture that has taken it over."""
    work, theirs = socket.socketpair()
    control, their_control = socket.socketpair()
    decoder = DecoderProcess(work, control, mmap.mmap(-1, 1))

    def answered(channel: Channel) -> None:
        pytest.fail("it answered")

    def make() -> Channel:
        return Channel(decoder, terms(), answered=answered, ran=lambda *_: None, patience_s=0.1)

    def run() -> None:
        with theirs, contextlib.suppress(OSError):
            play(theirs)

    _, channel = await asyncio.get_running_loop().create_unix_connection(make, sock=work)
    playing = threading.Thread(target=run)
    playing.start()
    try:
        yield channel
    finally:
        channel.stop()
        playing.join()
        decoder.close()
        their_control.close()


def job(data: bytes, within_s: float) -> Job:
    future = asyncio.get_running_loop().create_future()
    return Job(EncodedImage(data), time.monotonic() + within_s, future, copy_context(), print)


async def given_up(channel: Channel, data: bytes) -> WireError:
    channel.start([job(data, 0.3)])
    async with asyncio.timeout(30):
        await channel.ended
    return channel.death(None, decoding=True)


async def test_a_decoder_that_drips_its_answer_is_given_up_after_the_deadline() -> None:
    """There is always a byte more to wait for."""

    def drip(to: socket.socket) -> None:
        to.sendall(REPLY.pack(DONE, 0.0, 64 * 64 * 3))
        while True:
            time.sleep(0.01)
            to.send(b"x")

    async with channel_to(drip) as channel:
        assert isinstance(await given_up(channel, b"picture"), DeadlineExceeded)


async def test_a_decoder_that_takes_a_picture_too_slowly_is_given_up_after_the_deadline() -> None:
    taken = 0

    def sip(picture: socket.socket) -> None:
        nonlocal taken
        while part := picture.recv(64 * 1024):
            taken += len(part)
            time.sleep(0.05)

    large = bytes(8 * MIB)
    async with channel_to(sip) as channel:
        assert isinstance(await given_up(channel, large), DeadlineExceeded)
    assert taken < len(large) / 2


@pytest.mark.parametrize(
    "answer",
    [
        REPLY.pack(DONE, 0.0, 2**32 - 1),
        REPLY.pack(DONE, 0.0, 4) + bytes(4),
        REPLY.pack(200, 0.0, 0),
    ],
    ids=["endless", "too small", "unknown"],
)
async def test_a_decoder_that_answers_what_it_should_not_is_let_go(answer: bytes) -> None:
    told: list[Result | BaseException] = []

    def lie(to: socket.socket) -> None:
        to.recv(1)
        to.sendall(answer)
        while to.recv(MIB):
            pass

    async with channel_to(lie) as channel:
        asked = job(b"picture", 30)
        asked.then = told.append
        channel.start([asked])
        async with asyncio.timeout(30):
            await channel.ended
        assert [type(each) for each in told] == [InternalError]
        assert not channel.group
