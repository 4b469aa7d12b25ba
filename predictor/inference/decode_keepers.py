"""A decoder in each of so many places, whatever ends one, and however often a start fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextvars import Context
from typing import Final, Protocol

from predictor.errors import BundleError, StartupError
from predictor.inference.decode_channel import Channel
from predictor.inference.decode_nursery import DecoderProcess, Nursery
from predictor.inference.decode_wire import Terms

log = logging.getLogger("predictor.decoding")

LOST_AFTER_S: Final = 5.0
"""Starts that fail for as long as this are no burst: a new process of the server may do better."""
RETRY_S: Final = 0.25
"""Between two tries to start a decoder."""


class Owner(Protocol):
    """Who gives pictures to the decoders. All of it is called on the event loop."""

    def channel_to(self, decoder: DecoderProcess) -> Channel:
        """Make its channel, which is not open yet."""
        ...

    def opened(self, channel: Channel) -> None:
        """It can be given pictures from now on."""
        ...

    def closed(self, channel: Channel) -> None:
        """It cannot any more; how it ended is not known yet."""
        ...

    def ended(self, channel: Channel, code: int | None) -> None:
        """See `DecoderProcess.end`; its group is to be answered."""
        ...

    def unable(self) -> None:
        """There is no decoder, and none can be started now."""
        ...


class Keepers:
    """Lives on the event loop that it begins on.

    Args:
        places: decoders at once.

    Attributes:
        first: the decoders that are there from the start.
        channels: those that are open, or whose end is not settled yet.

    Raises:
        StartupError: no decoder can be started.
        BundleError: the network cannot be loaded.
    """

    def __init__(self, terms: Terms, places: int, owner: Owner) -> None:
        self.channels: set[Channel] = set()
        self._places = places
        self._owner = owner
        self._nursery = Nursery(terms)
        self.first = self._start_first()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        """Held by whoever starts one: a nursery that loads a network may take minutes."""
        self._failing_since: float | None = None
        """`time.monotonic()` of the first start that failed, where none has worked since."""
        self._without = 0
        """Places in which the last try to start a decoder has failed."""

    def _start_first(self) -> list[DecoderProcess]:
        first: list[DecoderProcess] = []
        try:
            for _ in range(self._places):
                first.append(self._nursery.start_decoder())
        except (OSError, BundleError) as error:
            self._nursery.close()
            self._nursery.wait()
            for decoder in first:
                decoder.close()
            if isinstance(error, BundleError):
                raise
            raise StartupError(
                "the decoder processes do not start (decoding.mode); is decoding.max_memory_bytes "
                "enough, and may this container start processes?"
            ) from None
        return first

    @property
    def able(self) -> bool:
        """False while no place has a decoder, or hopes for one."""
        return self._without < self._places

    @property
    def healthy(self) -> bool:
        """False once no decoder could be started for too long, and none is left."""
        since = self._failing_since
        lost = since is not None and time.monotonic() - since >= LOST_AFTER_S
        return bool(self.channels) or not lost

    def begin(self) -> None:
        """Open the first decoders, where that has not been done.

        Raises:
            RuntimeError: it was done on another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            # Not in the context of a request, which they outlive.
            self._keepers = [
                loop.create_task(self._keep(first), context=Context()) for first in self.first
            ]
        if loop is not self._loop:
            raise RuntimeError("decoders live on one event loop")

    def close(self) -> None:
        """End all decoders, without waiting for them; nobody hears of them any more."""
        for keeper in self._keepers:
            keeper.cancel()
        for channel in self.channels:
            channel.stop()
        for decoder in self.first:  # a keeper that has not begun yet will not
            decoder.close()
        self._nursery.close()

    async def wait_closed(self) -> None:
        """Until no process is left."""
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.to_thread(self._nursery.wait)

    async def _keep(self, decoder: DecoderProcess) -> None:
        """One place: its decoder, and the next one whenever that ends."""
        while True:
            try:
                await self._serve(decoder)
            except Exception:  # a place without a keeper would be missing for ever
                log.exception("a decoder's keeper failed")
            finally:
                decoder.close()
            decoder = await self._another()

    async def _serve(self, decoder: DecoderProcess) -> None:
        """Have a decoder answer until it ends."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: self._owner.channel_to(decoder), sock=decoder.work
        )
        self.channels.add(channel)
        try:
            self._owner.opened(channel)
            await channel.ended
            self._owner.closed(channel)
            self._owner.ended(channel, await _end(decoder))
        finally:
            self.channels.discard(channel)

    async def _another(self) -> DecoderProcess:
        """Start a decoder, however often it takes."""
        without = False
        try:
            while True:
                try:
                    decoder = await self._start()
                except Exception as error:  # whatever it is, it is tried again
                    reason = error.message if isinstance(error, BundleError) else repr(error)
                    log.error("no decoder can be started", extra={"reason": reason})
                else:
                    self._failing_since = None
                    return decoder
                self._failing_since = self._failing_since or time.monotonic()
                if not without:
                    without = True
                    self._without += 1
                if not self.able:
                    self._owner.unable()
                await asyncio.sleep(RETRY_S)
        finally:
            self._without -= without

    async def _start(self) -> DecoderProcess:
        async with self._starting:
            starting = asyncio.ensure_future(asyncio.to_thread(self._nursery.start_decoder))
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:  # and the nursery is closed: it takes not long
                with contextlib.suppress(Exception):
                    (await starting).close()
                raise


async def _end(decoder: DecoderProcess) -> int | None:
    try:
        return await asyncio.to_thread(decoder.end)
    except RuntimeError:  # no thread can be started
        return None
