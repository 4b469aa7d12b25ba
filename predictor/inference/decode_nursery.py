"""The decoder processes, as the server sees them: started, asked, and told how they ended."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import pickle
import socket
import subprocess
import sys
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.errors import BundleError
from predictor.inference.decode_wire import (
    DONE,
    GROUP,
    MAX_TEXT,
    READY,
    REPLY,
    STATUS,
    Terms,
    crop_request,
)
from predictor.inference.engine import EngineInput

log = logging.getLogger("predictor.decoding")

START_S: Final = 60.0
"""A new decoder answers by then, and its nursery, which has its imports to wait for."""
LOAD_S: Final = 600.0
"""The same for a nursery that loads a network: a large one, from a slow disk."""


class Nursery:
    """The process that forks decoders; started again when it is gone. Safe for all threads.

    Attributes:
        closed: True once it is to start no more.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self.closed = False

    def start_decoder(self) -> DecoderProcess:
        """Start one, and wait until it serves.

        Raises:
            BundleError: the network cannot be loaded.
            OSError: the nursery cannot be started, or its decoder does not answer.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            shared, progress = shared_byte(theirs)
            work, their_work = socket.socketpair()
            ours.enter_context(work)
            theirs.enter_context(their_work)
            control, their_control = socket.socketpair()
            ours.enter_context(control)
            theirs.enter_context(their_control)
            self._hand_over([their_control.fileno(), their_work.fileno(), shared])
            theirs.close()  # or a decoder that ended would not show
            decoder = DecoderProcess(work, control, progress)
            try:
                decoder.ping()
            except TimeoutError:
                self._kill()  # it forks no more, so the decoders that it has are its last
                raise
            ours.pop_all()
            return decoder

    def close(self) -> None:
        """End the nursery, and with it the decoders. Waits for nobody, not even for who is
        starting one."""
        self.closed = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def wait(self) -> None:
        """Until the process is gone; it has ended, or was closed."""
        if self._process is not None:
            self._process.wait()
        if self._channel is not None:
            self._channel.close()

    def _hand_over(self, descriptors: list[int]) -> None:
        with self._lock:
            if self._channel is not None and not self.closed:
                try:
                    socket.send_fds(self._channel, [b"+"], descriptors)
                    return
                except OSError:
                    log.warning("the decoders' nursery ended; starting another")
            self._kill()  # it may hang
            self.wait()
            if self.closed:
                raise OSError("closed")
            channel = self._channel = self._start()
            try:
                self._have_ready(channel)
                socket.send_fds(channel, [b"+"], descriptors)
            except (OSError, BundleError):
                self._channel = None
                channel.close()
                raise

    def _start(self) -> socket.socket:
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
        return ours

    def _have_ready(self, channel: socket.socket) -> None:
        if self.closed:  # meanwhile, and nobody has ended this one
            self._kill()
        channel.settimeout(START_S if self._terms.network is None else LOAD_S)
        channel.sendall(pickle.dumps(self._terms))
        answer = channel.recv(MAX_TEXT)
        if not answer:
            raise ConnectionError("it ended before it was ready")
        if answer != READY:
            raise BundleError(answer.decode(errors="replace"))
        channel.settimeout(None)


def shared_byte(until: contextlib.ExitStack) -> tuple[int, mmap.mmap]:
    """One byte of memory to share: its descriptor until then, and ours for as long as it is used.

    Sealed: who has it cannot take it away from under the other.
    """
    shared = os.memfd_create("progress", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    until.callback(os.close, shared)
    os.ftruncate(shared, 1)
    fcntl.fcntl(
        shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return shared, mmap.mmap(shared, 1)


class DecoderProcess:
    """One decoder process, by itself: who has it talks to it over `work`.

    Attributes:
        progress: one byte, which of its group's pictures it is decoding.
    """

    def __init__(self, work: socket.socket, control: socket.socket, progress: mmap.mmap) -> None:
        self.work = work
        self.progress = progress
        self._control = control

    def ping(self) -> None:
        """Wait until it serves.

        Raises:
            OSError: it does not.
        """
        self.work.settimeout(START_S)
        self.work.sendall(GROUP.pack(0, 0.0, 0.0))
        self._result()

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        """Run the network on one picture, before anybody else asks.

        Args:
            batch: see `Engine.forward`; of one picture.

        Raises:
            OSError: it has ended, or cannot.
        """
        [array] = batch
        for part in (GROUP.pack(1, 0.0, 0.0), *crop_request(array)):
            self.work.sendall(part)
        return np.frombuffer(self._result(), np.float32)[np.newaxis]

    def _result(self) -> bytes:
        kind, _, size = REPLY.unpack(self._exactly(REPLY.size))
        body = self._exactly(size)
        if kind != DONE:
            raise ConnectionError("not what was asked for")
        return body

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.work.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)

    def end(self) -> int | None:
        """End the process if it lives still. Waits for it.

        Returns:
            Its exit code, negative for a signal; None when nobody knows.
        """
        try:
            self._control.settimeout(START_S)
            self._control.sendall(b"-")
            status = self._control.recv(STATUS.size, socket.MSG_WAITALL)
        except OSError:
            status = b""
        self.close()
        return int(STATUS.unpack(status)[0]) if len(status) == STATUS.size else None

    def close(self) -> None:
        """It ends by itself."""
        self.work.close()
        self._control.close()
