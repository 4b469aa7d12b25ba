"""Decoding in processes of its own: a picture that breaks its decoder costs one request."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    NotReady,
    Overloaded,
    StartupError,
    WireError,
)
from predictor.inference.batcher import EXPIRED, STOPPED
from predictor.inference.decode_pool import Prepared, prepare_decoded, refuse_expired
from predictor.inference.decode_worker import (
    BROKEN,
    OUT_OF_MEMORY,
    PING,
    PIXELS,
    REFUSALS,
    REPLY,
    REQUEST,
    STATUS,
    Terms,
)
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture

log = logging.getLogger("predictor.decoding")

NURSERY: Final = "from predictor.inference.decode_worker import main; main()"
START_S: Final = 60.0
"""A new decoder answers by then; the nursery's first one has its imports to wait for."""
HANG_S: Final = 60.0
"""Longest wait for one picture whose request names no deadline."""
WORTH_KILLING_S: Final = 0.1
"""A decoder whose request expired is left this long to finish: ending it sooner would let callers
with short deadlines spend our processes at less than they cost."""
RECYCLE_AFTER: Final = 10_000
MAX_TEXT: Final = 4096

_Job: TypeAlias = tuple[Picture, float | None, "Future[Prepared]"]


class ProcessDecodePool:
    """Each worker is a thread that hands pictures to a decoder process and replaces it when it
    dies, overruns a limit, or has served its time.

    Args:
        workers: pictures decoded at once.
        recycle_after: pictures after which a decoder is replaced, whatever it may have leaked.

    Raises:
        StartupError: no decoder can be started.
    """

    def __init__(self, terms: Terms, *, workers: int, recycle_after: int = RECYCLE_AFTER) -> None:
        self.workers = workers
        self._terms = terms
        self._recycle_after = recycle_after
        self._nursery = Nursery(terms)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        first: list[_Decoder] = []
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
        for decoder in first:
            threading.Thread(
                target=self._serve, args=(decoder,), name="decode", daemon=True
            ).start()

    def submit(self, picture: Picture, deadline: float | None) -> asyncio.Future[Prepared]:
        if self._closed:
            raise NotReady(STOPPED)
        future: Future[Prepared] = Future()
        self._jobs.put((picture, deadline, future))
        return asyncio.wrap_future(future)

    def close(self) -> None:
        self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None and job[2].set_running_or_notify_cancel():
                job[2].set_exception(NotReady(STOPPED))
        for _ in range(self.workers):
            self._jobs.put(None)
        self._nursery.close()

    def _serve(self, first: _Decoder) -> None:
        decoder: _Decoder | None = first
        while (job := self._jobs.get()) is not None:
            picture, deadline, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                began = refuse_expired(deadline)
                if isinstance(picture, EncodedImage):
                    decoder = self._usable(decoder)
                    crop: EngineInput = decoder.decode(picture.data, deadline)
                else:
                    crop = prepare_decoded(picture, self._terms.preprocessing, self._terms.limits)
                future.set_result(Prepared(crop, time.monotonic() - began))
                del crop
            except BaseException as error:
                future.set_exception(error)
            del job, picture, future  # else a waiting worker keeps the last picture alive
            if not self._closed:
                decoder = self._replaced(decoder)
        if decoder is not None:
            decoder.close()
        self._nursery.wait()

    def _usable(self, decoder: _Decoder | None) -> _Decoder:
        if decoder is not None and decoder.alive:
            return decoder
        if decoder is not None:
            log.warning("a decoder ended while idle", extra={"exit": decoder.end()})
        try:
            return self._nursery.start_decoder()
        except OSError:
            if self._closed:
                raise NotReady(STOPPED) from None
            log.exception("no decoder can be started")
            raise Overloaded("no decoder can be started now; retry later") from None

    def _replaced(self, decoder: _Decoder | None) -> _Decoder | None:
        """After the answer, so that the next picture does not wait for a start."""
        if decoder is None or (decoder.usable and decoder.served < self._recycle_after):
            return decoder
        decoder.end()
        try:
            return self._nursery.start_decoder()
        except OSError:
            return None  # the next picture tries again, and says so


class Nursery:
    """The process that forks decoders; started again when it is gone. Safe for all threads."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._closed = False

    def start_decoder(self) -> _Decoder:
        """Raises OSError: the nursery cannot be started, or its decoder does not answer."""
        control, their_control = socket.socketpair()
        work, their_work = socket.socketpair()
        decoder = _Decoder(work, control, self._terms)
        try:
            with their_control, their_work:
                self._hand_over([their_control.fileno(), their_work.fileno()])
            decoder.ping()
        except OSError:
            decoder.close()
            raise
        return decoder

    def close(self) -> None:
        """The nursery ends when its channel closes, and the decoders end with it."""
        with self._lock:
            self._closed = True
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def wait(self) -> None:
        """Until the process is gone; its channel must be closed."""
        if self._process is not None:
            self._process.wait()

    def _hand_over(self, descriptors: list[int]) -> None:
        with self._lock:
            if self._closed:
                raise OSError("closed")
            if self._channel is not None:
                try:
                    socket.send_fds(self._channel, [b"+"], descriptors)
                    return
                except OSError:
                    log.warning("the decoders' nursery ended; starting another")
                    self._channel.close()
            self._channel = self._start()
            socket.send_fds(self._channel, [b"+"], descriptors)

    def _start(self) -> socket.socket:
        self.wait()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # One thread, or forking it would not be safe: OpenBLAS starts its own on import.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from predictor.inference.decode_worker import main; main()",
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                # Out of reach of a terminal's Ctrl-C: the server stops first, and in order.
                start_new_session=True,
            )
        ours.sendall(pickle.dumps(self._terms))
        return ours


class _Decoder:
    """One decoder process, as its worker thread sees it.

    Attributes:
        usable: False once it has died, was given up, or answered what it should not.
    """

    def __init__(self, work: socket.socket, control: socket.socket, terms: Terms) -> None:
        self.usable = True
        self.served = 0
        self._work = work
        self._control = control
        self._terms = terms

    @property
    def alive(self) -> bool:
        """An idle decoder has nothing to say: readable means it hung up."""
        if not self.usable:
            return False
        self._work.setblocking(False)
        try:
            self._work.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def ping(self) -> None:
        """Wait until it serves.

        Raises:
            OSError: it does not.
        """
        end = time.monotonic() + START_S
        self._work.settimeout(_until(end))
        self._work.sendall(REQUEST.pack(PING))
        if self._reply(end) != (PIXELS, 0):
            raise ConnectionError("not the answer of a decoder")

    def decode(self, data: bytes | memoryview, deadline: float | None) -> NDArray[np.uint8]:
        """Decode one picture.

        Raises:
            WireError: of the picture, or of what it did to its decoder.
        """
        now = time.monotonic()
        end = now + HANG_S if deadline is None else max(deadline, now + WORTH_KILLING_S)
        self.served += 1
        try:
            kind, size = self._exchange(data, end)
            if kind == PIXELS:
                height, width = self._terms.preprocessing.input_size
                pixels = np.empty((height, width, 3), dtype=np.uint8)
                if size == pixels.nbytes:
                    self._fill(pixels.data.cast("B"), end)
                    return pixels
            text = bytearray(min(size, MAX_TEXT))
            self._fill(memoryview(text), end)
        except TimeoutError:
            self.usable = False
            raise DeadlineExceeded(EXPIRED) from None
        except OSError:
            raise _death(self.end(), self._terms) from None
        self._refuse(kind, text.decode(errors="replace"))

    def _refuse(self, kind: int, text: str) -> NoReturn:
        if kind in REFUSALS:
            raise REFUSALS[kind](text)
        self.usable = False
        if kind == OUT_OF_MEMORY:
            log.warning("a decoder ran out of memory")
            raise InvalidImage(
                f"decoding the picture takes more than {self._terms.max_memory_bytes} bytes of "
                "memory (decoding.max_memory_bytes); send it smaller"
            )
        place = text if kind == BROKEN else f"reply of kind {kind}"
        log.error("a picture could not be decoded", extra={"place": place})
        raise InternalError

    def end(self) -> int | None:
        """End the process if it lives still.

        Returns:
            Its exit code, negative for a signal; None when nobody knows.
        """
        self.usable = False
        try:
            self._control.settimeout(START_S)
            self._control.sendall(b"-")
            status = self._control.recv(STATUS.size, socket.MSG_WAITALL)
        except OSError:
            status = b""
        self.close()
        return int(STATUS.unpack(status)[0]) if len(status) == STATUS.size else None

    def close(self) -> None:
        self._work.close()
        self._control.close()

    def _exchange(self, data: bytes | memoryview, end: float) -> tuple[int, int]:
        """Send a picture; return the kind and the size of what comes back."""
        with memoryview(data).cast("B") as view:
            self._work.settimeout(_until(end))
            self._work.sendall(REQUEST.pack(len(view)))
            self._work.sendall(view)
        return self._reply(end)

    def _reply(self, end: float) -> tuple[int, int]:
        head = bytearray(REPLY.size)
        self._fill(memoryview(head), end)
        kind, size = REPLY.unpack(head)
        return kind, size

    def _fill(self, view: memoryview, end: float) -> None:
        received = 0
        while received < len(view):
            self._work.settimeout(_until(end))
            count = self._work.recv_into(view[received:])
            if count == 0:
                raise ConnectionResetError
            received += count


def _until(end: float) -> float:
    remaining = end - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _death(code: int | None, terms: Terms) -> WireError:
    """What to tell the caller whose picture was in a decoder that ended."""
    name = signal.Signals(-code).name if code is not None and code < 0 else str(code)
    log.warning("a decoder ended at work", extra={"exit": name})
    if code is None or code == -signal.SIGKILL:  # from outside: the kernel short of memory, say
        return Overloaded("the decoder was ended before the picture was decoded; retry later")
    if code == -signal.SIGPROF:
        return InvalidImage(
            f"decoding the picture takes more than {terms.max_cpu_s:g} s of CPU time "
            "(decoding.max_cpu_s); save it anew, or smaller"
        )
    return InvalidImage("the picture breaks its decoder; save it anew")
