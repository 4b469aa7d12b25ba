"""Decoding in processes of its own: a picture that breaks its decoder costs one request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from predictor.errors import NotReady, Overloaded, StartupError
from predictor.inference.batcher import STOPPED
from predictor.inference.decode_nursery import DecoderProcess, EndedIdle, Nursery
from predictor.inference.decode_pool import DecodePool, prepare_decoded
from predictor.inference.decode_worker import Terms
from predictor.inference.decoding import check_bytes
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture

log = logging.getLogger("predictor.decoding")

RECYCLE_AFTER: Final = 10_000
LOST_AFTER_S: Final = 5.0
"""Starts that fail for as long as this are no burst: a new process of the server may do better."""


class ProcessWorker:
    """Hands pictures to a decoder process, and replaces it when it dies, overruns a limit, or has
    served its time.

    Args:
        decoder: the first one.
        recycle_after: pictures after which a decoder is replaced, whatever it may have leaked.
    """

    def __init__(
        self, nursery: Nursery, terms: Terms, decoder: DecoderProcess, recycle_after: int
    ) -> None:
        self._nursery = nursery
        self._terms = terms
        self._decoder: DecoderProcess | None = decoder
        self._recycle_after = recycle_after

    def prepare(self, picture: Picture, deadline: float | None) -> EngineInput:
        """See `Worker.prepare`."""
        if not isinstance(picture, EncodedImage):
            return prepare_decoded(picture, self._terms.preprocessing, self._terms.limits)
        check_bytes(len(picture.data), self._terms.limits)  # not worth the way to the decoder
        decoder = self._decoder = self._decoder or self._started()
        try:
            return decoder.decode(picture.data, deadline)
        except EndedIdle:
            log.warning("a decoder ended while idle", extra={"exit": decoder.end()})
        self._decoder = None
        decoder = self._decoder = self._started()
        return decoder.decode(picture.data, deadline)

    @property
    def has_decoder(self) -> bool:
        return self._decoder is not None

    def rest(self) -> None:
        """Replace the decoder where it has to be, so that the next picture does not wait for it."""
        decoder = self._decoder
        if decoder is None or (decoder.usable and decoder.served < self._recycle_after):
            return
        decoder.end()
        try:
            self._decoder = self._nursery.start_decoder()
        except OSError:
            self._decoder = None  # the next picture tries again, and says so

    def end(self) -> None:
        """Let go of the decoder; wait for the nursery, so that no process is left."""
        if self._decoder is not None:
            self._decoder.close()
        self._nursery.wait()

    def _started(self) -> DecoderProcess:
        try:
            return self._nursery.start_decoder()
        except OSError as error:
            if self._nursery.closed:
                raise NotReady(STOPPED) from None
            log.error("no decoder can be started", extra={"reason": error.strerror})
            raise Overloaded(
                "no decoder can be started now; retry later", reason="decoder"
            ) from None


class ProcessDecodePool(DecodePool):
    """A decoder process for each thread.

    Args:
        workers: pictures decoded at once.
        weights: turns by caller; see `FairQueue`.
        recycle_after: see `ProcessWorker`.

    Raises:
        StartupError: no decoder can be started.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        workers: int,
        weights: Mapping[str, int] | None = None,
        recycle_after: int = RECYCLE_AFTER,
    ) -> None:
        self._nursery = Nursery(terms)
        first: list[DecoderProcess] = []
        try:
            for _ in range(workers):
                first.append(self._nursery.start_decoder())
        except OSError:
            self._nursery.close()
            self._nursery.wait()
            for decoder in first:
                decoder.close()
            raise StartupError(
                "the decoder processes do not start (decoding.mode); is decoding.max_memory_bytes "
                "enough, and may this container start processes?"
            ) from None
        self._own_workers = [
            ProcessWorker(self._nursery, terms, decoder, recycle_after) for decoder in first
        ]
        super().__init__(self._own_workers, weights)

    @property
    def healthy(self) -> bool:
        """See `DecodePool.healthy`."""
        return self._nursery.failing_s < LOST_AFTER_S or any(
            worker.has_decoder for worker in self._own_workers
        )

    def close(self) -> None:
        """See `DecodePool.close`; what is being decoded ends, too."""
        super().close()
        self._nursery.close()
