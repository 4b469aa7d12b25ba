"""The decoder processes, as the server sees them: started, asked, and told how they ended."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from predictor.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidImage,
    Overloaded,
    WireError,
)
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
from predictor.inference.delivery import EXPIRED

log = logging.getLogger("predictor.decoding")

START_S: Final = 60.0
"""A new decoder answers by then; the nursery's first one has its imports to wait for."""
HANG_S: Final = 60.0
"""Longest wait for one picture whose request names no deadline."""
WORTH_KILLING_S: Final = 0.1
"""A decoder whose request expired is left this long to finish: ending it sooner would let callers
with short deadlines spend our processes at less than they cost."""
MAX_TEXT: Final = 4096
CRASHES: Final = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP),
    *(signal.SIGABRT, signal.SIGSYS),
}
"""Signals that a process brings on itself. Any other comes from outside, whatever the picture."""
SIGNAL_NAMES: Final[dict[int | None, str]] = {-each: each.name for each in signal.Signals}
"""By exit code."""
ENDED: Final = "the decoder was ended before the picture was decoded; retry later"
PIECE: Final = 64 * 1024
TIMEVAL: Final = struct.Struct("@ll")
"""The kernel's `struct timeval`: seconds and microseconds; zero would be no timeout."""


class Nursery:
    """The process that forks decoders; started again when it is gone. Safe for all threads.

    Attributes:
        closed: True once it is to start no more.
        failing_s: from the first start that failed to the last, where none has worked since.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._first_failure: float | None = None
        self.closed = False
        self.failing_s = 0.0

    def start_decoder(self) -> DecoderProcess:
        """Raises OSError: the nursery cannot be started, or its decoder does not answer."""
        control, their_control = socket.socketpair()
        work, their_work = socket.socketpair()
        decoder = DecoderProcess(work, control, self._terms)
        try:
            with their_control, their_work:
                self._hand_over([their_control.fileno(), their_work.fileno()])
            decoder.ping()
        except OSError:
            decoder.close()
            now = time.monotonic()
            first = self._first_failure = self._first_failure or now
            self.failing_s = now - first
            raise
        self._first_failure, self.failing_s = None, 0.0
        return decoder

    def close(self) -> None:
        """The nursery ends when its channel closes, and the decoders end with it."""
        with self._lock:
            self.closed = True
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def wait(self) -> None:
        """Until the process is gone; its channel must be closed."""
        if self._process is not None:
            self._process.wait()

    def _hand_over(self, descriptors: list[int]) -> None:
        with self._lock:
            if self.closed:
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


class EndedIdle(Overloaded):
    """The decoder was gone before it was given the picture; another one may decode it."""

    def __init__(self) -> None:
        super().__init__(ENDED, reason="decoder")


class DecoderProcess:
    """One decoder process, as its worker thread sees it.

    Its sockets wait by the kernel's own timeouts. With Python's each call would be two, and each
    call gives up the GIL and has to get it back: here three do for a picture.

    Attributes:
        usable: False once it has died, was given up, or answered what it should not.
    """

    def __init__(self, work: socket.socket, control: socket.socket, terms: Terms) -> None:
        self.usable = True
        self.served = 0
        self._work = work
        self._control = control
        self._terms = terms

    def ping(self) -> None:
        """Wait until it serves.

        Raises:
            OSError: it does not.
        """
        end = time.monotonic() + START_S
        self._wait_until(end)
        self._work.sendall(REQUEST.pack(PING))
        if self._reply(end) != (PIXELS, 0):
            raise ConnectionError("not the answer of a decoder")

    def decode(self, data: bytes | memoryview, deadline: float | None) -> NDArray[np.uint8]:
        """Decode one picture.

        Raises:
            WireError: of the picture, or of what it did to its decoder.
            EndedIdle: it had ended before.
        """
        now = time.monotonic()
        end = now + HANG_S if deadline is None else max(deadline, now + WORTH_KILLING_S)
        self.served += 1
        try:
            self._wait_until(end)
            self._send(data, end)
            kind, size = self._reply(end)
            if kind == PIXELS:
                height, width = self._terms.preprocessing.input_size
                pixels = np.empty((height, width, 3), dtype=np.uint8)
                if size == pixels.nbytes:
                    self._fill(pixels.data.cast("B"), end)
                    return pixels
            text = bytearray(min(size, MAX_TEXT))
            self._fill(memoryview(text), end)
        except (BlockingIOError, TimeoutError):  # the first is the kernel's
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

    def _wait_until(self, end: float) -> None:
        """Bound each wait from now on, to what is left now.

        Raises:
            TimeoutError: nothing is.
        """
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        timeout = TIMEVAL.pack(int(left), max(1, int(left % 1 * 1e6)))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._work.setsockopt(socket.SOL_SOCKET, option, timeout)

    def _send(self, data: bytes | memoryview, end: float) -> None:
        with memoryview(data).cast("B") as view:
            head = REQUEST.pack(len(view))
            try:
                sent = self._work.sendmsg([head, view], [], socket.MSG_DONTWAIT) - len(head)
            except (BrokenPipeError, ConnectionResetError):
                raise EndedIdle from None
            while sent < len(view):
                # The kernel bounds each piece of its own that it waits to send, not the call.
                self._wait_until(end)
                sent += self._work.send(view[sent : sent + PIECE])

    def _reply(self, end: float) -> tuple[int, int]:
        head = bytearray(REPLY.size)
        self._fill(memoryview(head), end)
        kind, size = REPLY.unpack(head)
        return kind, size

    def _fill(self, view: memoryview, end: float) -> None:
        received = 0
        while received < len(view):
            if received:  # it took all of the time for a part
                self._wait_until(end)
            count = self._work.recv_into(view[received:], 0, socket.MSG_WAITALL)
            if count == 0:
                raise ConnectionResetError
            received += count


def _death(code: int | None, terms: Terms) -> WireError:
    """What to tell the caller whose picture was in a decoder that ended."""
    log.warning("a decoder ended at work", extra={"exit": SIGNAL_NAMES.get(code, str(code))})
    if code == -signal.SIGPROF:
        return InvalidImage(
            f"decoding the picture takes more than {terms.max_cpu_s:g} s of CPU time "
            "(decoding.max_cpu_s); save it anew, or smaller"
        )
    if code is None or (code < 0 and -code not in CRASHES):  # the kernel short of memory, say
        return Overloaded(ENDED, reason="decoder")
    return InvalidImage("the picture breaks its decoder; save it anew")
