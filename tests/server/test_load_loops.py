"""Load in loops, against servers that stall, break and close: what is charged, and to whom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from hack.load.http_caller import HttpCaller, post
from hack.load.loops import ClosedLoop, OpenLoop
from hack.load.samples import BROKEN, Answer

REQUEST = post("/", b"picture", {})
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
LAST = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
LIMIT_S = 30

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def caller_of(handler: Handler, *, milliseconds: bool = False) -> AsyncIterator[HttpCaller]:
    """A caller of a server of one's own."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the caller has closed
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    caller = HttpCaller(f"http://127.0.0.1:{port}", REQUEST, milliseconds=milliseconds)
    async with asyncio.timeout(LIMIT_S):
        yield caller
    await caller.close()
    server.close()


async def read(reader: asyncio.StreamReader) -> None:
    await reader.readexactly(len(REQUEST))


def answering(*answers: bytes) -> tuple[Handler, list[int]]:
    """A server whose answers take turns, over all connections, and how many it accepted."""
    connections, asked = [0], [0]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        while True:
            await read(reader)
            answer = answers[asked[0] % len(answers)]
            asked[0] += 1
            writer.write(answer)
            if b"close" in answer or not answer:
                return

    return handler, connections


async def test_an_open_loop_charges_a_stall_to_everybody_who_had_to_wait() -> None:
    """One event loop: while it is stalled nothing is answered, and none of it is forgotten."""
    stalled = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read(reader)
            await stalled.wait()
            writer.write(OK)

    async with caller_of(handler) as caller:
        loop = OpenLoop(caller, 100)
        loop.start()
        asyncio.get_running_loop().call_later(1.0, stalled.set)
        window = await loop.window(0.5)
        await loop.stop()
    assert len(window.samples) == 50, "every request that was due counts"
    # The first was due a second before the end of the stall, the last half a second.
    assert window.seconds()[0] >= 0.5 - 0.02
    assert window.seconds()[-1] >= 1.0 - 0.02


async def test_the_windows_of_an_open_loop_leave_no_request_out() -> None:
    handler, _ = answering(OK)
    async with caller_of(handler) as caller:
        loop = OpenLoop(caller, 200)
        loop.start()
        counts = [len((await loop.window(0.25)).samples) for _ in range(3)]
        await loop.stop()
    assert counts == [50, 50, 50]


async def test_an_open_loop_keeps_no_more_than_figures_of_what_was_answered() -> None:
    """Whatever else it kept would be gone through again and again, in pauses that look like the
    server's."""
    handler, _ = answering(OK)
    async with caller_of(handler) as caller:
        loop = OpenLoop(caller, 500)
        loop.start()
        window = asyncio.create_task(loop.window(0.6))
        await asyncio.sleep(0.5)
        gc.collect()  # of what other tests have left
        tasks = sum(issubclass(type(thing), asyncio.Task) for thing in gc.get_objects())
        assert len((await window).samples) == 300
        await loop.stop()
    assert tasks < 100


async def test_a_fault_of_the_client_itself_ends_the_load() -> None:
    class Faulty:
        async def ask(self) -> Answer:
            raise ValueError("a fault")

        async def close(self) -> None: ...

    loop = OpenLoop(Faulty(), 100)
    loop.start()
    with pytest.raises(ValueError, match="a fault"):
        await loop.window(0.1)
    with pytest.raises(ValueError, match="a fault"):
        await loop.stop()


async def test_random_arrivals_keep_the_rate_and_not_the_distance() -> None:
    handler, _ = answering(OK)
    async with caller_of(handler) as caller:
        loop = OpenLoop(caller, 200, poisson=True)
        loop.start()
        counts = [len((await loop.window(0.25)).samples) for _ in range(4)]
        await loop.stop()
    assert len(set(counts)) > 1
    assert sum(counts) == pytest.approx(200, rel=0.25)


async def test_a_closed_loop_waits_for_each_answer() -> None:
    inside, most = 0, 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        while True:
            await read(reader)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1
            writer.write(OK)

    async with caller_of(handler) as caller:
        loop = ClosedLoop(caller, 5)
        loop.start()
        await loop.warm_up(0.1)
        window = await loop.window(0.3)
        await loop.stop()
    assert most == 5
    assert window.codes.keys() == {"200"}
    assert window.throughput <= 5 / 0.01
    assert window.seconds()[0] >= 0.01


REFUSED = b"HTTP/1.1 503 x\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("obeys", [False, True])
async def test_a_caller_that_obeys_comes_back_when_it_is_told_to(obeys: bool) -> None:
    handler, _ = answering(REFUSED)
    async with caller_of(handler) as caller:
        loop = ClosedLoop(caller, 1, obeys=obeys)
        loop.start()
        window = await loop.window(0.2)
        await loop.stop()  # which waits for nobody's hour
    assert (window.codes["503"] == 1) is obeys


async def test_who_came_back_is_told_apart_and_may_be_told_to_the_millisecond() -> None:
    handler, _ = answering(REFUSED.replace(b"\r\n", b"\r\nretry-after-ms: 20\r\n", 1), *[OK] * 4)
    async with caller_of(handler, milliseconds=True) as caller:
        loop = ClosedLoop(caller, 1, obeys=True)
        loop.start()
        window = await loop.window(0.2)
        await loop.stop()
    codes = [(sample.code, sample.came_back) for sample in window.samples]
    assert codes[:6] == [
        *(("503", False), ("200", True), ("200", False), ("200", False), ("200", False)),
        ("503", False),
    ]
    assert window.came_back[:1] == [True]


async def test_the_warm_up_lasts_until_every_caller_was_answered() -> None:
    first = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read(reader)
            await first.wait()
            writer.write(OK)

    async with caller_of(handler) as caller:
        loop = ClosedLoop(caller, 3)
        loop.start()
        warm = asyncio.create_task(loop.warm_up(0.01))
        await asyncio.sleep(0.2)
        assert not warm.done()
        first.set()
        await warm
        await loop.stop()


async def test_answers_in_chunks_are_read_and_connections_kept() -> None:
    handler, connections = answering(OK, CHUNKED)
    async with caller_of(handler) as caller:
        answers = [await caller.ask() for _ in range(4)]
    assert {(answer.code, answer.body) for answer in answers} == {("200", b"{}")}
    assert connections == [1]


async def test_a_refusal_that_closes_is_an_answer_and_the_next_has_a_new_connection() -> None:
    handler, connections = answering(LAST, OK)
    async with caller_of(handler) as caller:
        refused, answered = await caller.ask(), await caller.ask()
    assert (refused.code, refused.retry_after_s) == ("503", 7.0)
    assert answered.code == "200"
    assert connections == [2]


@pytest.mark.parametrize("answer", [b"", b"close, and no HTTP\r\n\r\n"])
async def test_what_is_no_answer_is_counted_as_broken(answer: bytes) -> None:
    handler, _ = answering(answer)
    async with caller_of(handler) as caller:
        loop = ClosedLoop(caller, 2)
        loop.start()
        window = await loop.window(0.35)
        await loop.stop()
    assert window.codes.keys() == {BROKEN}
    assert window.errors == 1.0
    assert len(window.samples) <= 2 * (window.taken_s / 0.1 + 1), (
        "a caller floods a server that is gone"
    )
