"""Where pictures are decoded, off the event loop. docs/decisions has the why of each mode."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple, Protocol

from predictor.bundle.manifest import Preprocessing
from predictor.errors import DeadlineExceeded, InvalidRequest, NotReady
from predictor.inference.batcher import STOPPED
from predictor.inference.decode_worker import Decoder
from predictor.inference.decoding import DecodeLimits, decode, prepare
from predictor.inference.delivery import EXPIRED
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture, Pixels


class Prepared(NamedTuple):
    """What the network sees of a picture, and the seconds a worker was at it."""

    crop: EngineInput
    took_s: float


class DecodePool(Protocol):
    """A bounded number of workers that turn pictures into what the network sees."""

    workers: int
    """Pictures decoded at once."""

    def submit(self, picture: Picture, deadline: float | None) -> asyncio.Future[Prepared]:
        """Queue a picture. Cancelling the future takes it out of the queue.

        Args:
            deadline: `time.monotonic()` after which nobody wants the result.

        Raises:
            NotReady: the pool is closed. The future raises this and other WireErrors.
        """
        ...

    def close(self) -> None:
        """Fail what is queued with NotReady; let go of the workers, without waiting for them."""
        ...


class ThreadDecodePool:
    """Decodes in threads of this process. Pillow releases the GIL, so they run in parallel; one
    that crashes takes the server with it, and one that overruns cannot be stopped.

    Args:
        workers: pictures decoded at once.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: DecodeLimits,
        *,
        workers: int,
        decoder: Decoder = decode,
    ) -> None:
        self._preprocessing = preprocessing
        self._limits = limits
        self._decoder = decoder
        self.workers = workers
        self._closed = False
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def submit(self, picture: Picture, deadline: float | None) -> asyncio.Future[Prepared]:
        if self._closed:
            raise NotReady(STOPPED)
        loop = asyncio.get_running_loop()
        context = copy_context()  # its request's, for what is logged about it
        return loop.run_in_executor(self._executor, context.run, self._prepare, picture, deadline)

    def close(self) -> None:
        self._closed = True
        self._executor.shutdown(wait=False)

    def _prepare(self, picture: Picture, deadline: float | None) -> Prepared:
        if self._closed:  # the executor still empties its queue
            raise NotReady(STOPPED)
        began = refuse_expired(deadline)
        if isinstance(picture, EncodedImage):
            crop: EngineInput = self._decoder(picture.data, self._preprocessing, self._limits)
        else:
            crop = prepare_decoded(picture, self._preprocessing, self._limits)
        return Prepared(crop, time.monotonic() - began)


def refuse_expired(deadline: float | None) -> float:
    """Return `time.monotonic()`, or raise DeadlineExceeded when it is past `deadline`."""
    now = time.monotonic()
    if deadline is not None and now >= deadline:
        raise DeadlineExceeded(EXPIRED)
    return now


def prepare_decoded(
    picture: Picture, preprocessing: Preprocessing, limits: DecodeLimits
) -> EngineInput:
    """Resize pixels, or check a tensor: nothing here parses what a stranger wrote.

    Raises:
        ImageTooLarge, InvalidImage, InvalidRequest.
    """
    if isinstance(picture, Pixels):
        return prepare(picture.array, preprocessing, limits)
    if isinstance(picture, EncodedImage):
        raise TypeError("an encoded picture is not decoded")
    expected = (3, *preprocessing.input_size)
    if picture.array.shape != expected:
        raise InvalidRequest(f"a preprocessed tensor must have shape {expected} here")
    return picture.array
