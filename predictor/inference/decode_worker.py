"""The processes that decode untrusted pictures, from the inside.

Pillow and numpy are imported once, by a nursery that has a single thread and forks a decoder
whenever the server asks: a decoder that died is replaced in milliseconds, and a server full of
threads is never forked. Where decoders run the network, too, the nursery loads it, and all share
its weights. `decode_wire.py` has what is said.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import pickle
import resource
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.errors import (
    BundleError,
    ImageTooLarge,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedMedia,
)
from predictor.inference.decode_wire import (
    BROKEN,
    CROP,
    DONE,
    ENCODED,
    EXIT_OUT_OF_MEMORY,
    GROUP,
    MAX_TERMS,
    MAX_TEXT,
    NO_ROOM,
    OUT_OF_MEMORY,
    PIXELS,
    READY,
    REFUSALS,
    REPLY,
    REQUEST,
    STATUS,
    Network,
    Terms,
    files_of,
)
from predictor.inference.decoding import prepare
from predictor.inference.engine import EngineInput
from predictor.inference.priority import DECODER, give_way

Forward: TypeAlias = Callable[[EngineInput], NDArray[np.float32]]
Answer: TypeAlias = tuple[int, float, bytes | memoryview]
"""Kind, seconds in the network, and what goes with it."""

_KIND_OF: Final[dict[type, int]] = {kind: number for number, kind in REFUSALS.items()}
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """The nursery: fork decoders until the server hangs up. They all end with it."""
    # Python would end a decoder by an exception, and its exit code would not say why.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = socket.socket(fileno=0)
    terms: Terms = pickle.loads(server.recv(MAX_TERMS))  # noqa: S301  # from our own server
    before = _private_bytes()
    try:
        forward = None if terms.network is None else _load(terms.network, terms)
    except BundleError as error:
        server.send(error.message.encode()[:MAX_TEXT])
        return
    server.send(READY)
    max_bytes = terms.max_memory_bytes + _private_bytes() - before
    libc = ctypes.CDLL(None)
    gc.collect()
    gc.freeze()  # what is never collected stays shared between the decoders
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not server:
                    selector.unregister(key.fileobj)
                    _end(*key.data)
                    continue
                message, descriptors, _, _ = socket.recv_fds(server, 1, 3)
                if not message:
                    return
                *sockets, shared = descriptors
                control, work = (socket.socket(fileno=each) for each in sockets)
                try:
                    pid = os.fork()
                except OSError:  # who asked sees that its connection ends; the others decode on
                    for each in (control, work):
                        each.close()
                    os.close(shared)
                    continue
                if pid == 0:
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    _close_all(selector, control)
                    progress = mmap.mmap(shared, 1)
                    os.close(shared)
                    _Worker(work, progress, terms, forward).serve(max_bytes)
                work.close()
                os.close(shared)
                selector.register(control, selectors.EVENT_READ, (control, pid))


def _load(network: Network, terms: Terms) -> Forward:
    """Load the network, and have it take what memory it needs. Raises BundleError."""
    from predictor.bundle.graph import Session

    if files_of(network.graph) != network.files:
        raise BundleError(
            f"{network.graph.name} or its weights are not those that were verified at the start; "
            "start again to serve what is there now"
        )
    size = terms.preprocessing.input_size
    session = Session(network.graph, input_size=size, num_classes=network.num_classes)
    for count in sorted({1, network.largest_batch}):
        session(np.zeros((count, *size, 3), np.uint8))
        session(np.zeros((count, 3, *size), np.float32))
    return session


def _private_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _close_all(selector: selectors.BaseSelector, own_control: socket.socket) -> None:
    """Let go of what a decoder inherits: others must see one another's ends, not ours."""
    own_control.close()
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
    selector.close()


def _end(control: socket.socket, pid: int) -> None:
    """End a decoder, if it has not ended by itself, and tell how it ended."""
    # Until it is waited for its pid is nobody else's, and how it ended no longer changes.
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with control:
        try:
            control.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
        except OSError:
            return  # the server did not wait for the answer


class _Worker:
    """A decoder.

    Args:
        progress: one byte, where the server sees which picture of a group is being decoded.
        forward: None where it answers with pixels.
    """

    def __init__(
        self, work: socket.socket, progress: mmap.mmap, terms: Terms, forward: Forward | None
    ) -> None:
        self._work = work
        self._progress = progress
        self._terms = terms
        self._forward = forward

    def serve(self, max_bytes: int) -> NoReturn:
        """Answer groups until the server hangs up."""
        give_way(DECODER)
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds pictures
            resource.setrlimit(resource.RLIMIT_DATA, (max_bytes,) * 2)
            while (head := self._receive(GROUP.size)) is not None:
                answers = self._answers(*GROUP.unpack(head))
                if answers is None:
                    break
                self._send(answers or [(DONE, 0.0, b"")])
                if any(kind in (OUT_OF_MEMORY, NO_ROOM) for kind, _, _ in answers):
                    break  # what was half done when memory ran out stays half done
        finally:
            os._exit(0)

    def _answers(self, count: int, allowed_s: float, cpu_s: float) -> list[Answer] | None:
        """Answer a group; None when the server hangs up meanwhile."""
        prepared: list[Answer | EngineInput] = []
        for number in range(count):
            self._progress[0] = number
            head = self._receive(REQUEST.size)
            if head is None:
                return None
            kind, height, width, size = REQUEST.unpack(head)
            data = self._receive(size)
            if data is None:
                return None
            # A signal's default action ends the process, wherever in C code it is.
            signal.setitimer(signal.ITIMER_REAL, allowed_s)
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            answer = self._prepare(kind, (height, width), data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            del data
            if count > 1 and isinstance(answer, tuple) and answer[0] == OUT_OF_MEMORY:
                os._exit(EXIT_OUT_OF_MEMORY)  # the others are better off in another process
            prepared.append(answer)
        self._progress[0] = count
        if self._forward is None:
            return [
                each if isinstance(each, tuple) else (DONE, 0.0, each.data.cast("B"))
                for each in prepared
            ]
        arrays = [each for each in prepared if not isinstance(each, tuple)]
        rows = iter(_forward(self._forward, arrays))
        return [each if isinstance(each, tuple) else next(rows) for each in prepared]

    def _prepare(self, kind: int, size: tuple[int, int], data: bytearray) -> Answer | EngineInput:
        """What the network sees of a picture, or why it sees nothing."""
        terms = self._terms
        try:
            if kind == ENCODED:
                return terms.decoder(memoryview(data), terms.preprocessing, terms.limits)
            if kind == PIXELS:
                pixels = np.frombuffer(data, np.uint8).reshape(*size, 3)
                return prepare(pixels, terms.preprocessing, terms.limits)
            if kind == CROP:
                return np.frombuffer(data, np.uint8).reshape(*terms.preprocessing.input_size, 3)
            return np.frombuffer(data, np.float32).reshape(3, *terms.preprocessing.input_size)
        except (InvalidImage, ImageTooLarge, UnsupportedMedia, PayloadTooLarge) as refusal:
            return _KIND_OF[type(refusal)], 0.0, refusal.message.encode()
        except MemoryError:
            return OUT_OF_MEMORY, 0.0, b""
        except Exception as error:
            return BROKEN, 0.0, _place_of(error)

    def _receive(self, size: int) -> bytearray | None:
        """So many bytes, or None when there will be no more. Where there is no memory for them the
        process ends: the server may still be sending."""
        try:
            data = bytearray(size)
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)
        received = 0
        with memoryview(data) as view:
            while received < size:
                count = self._work.recv_into(view[received:], 0, socket.MSG_WAITALL)
                if count == 0:
                    return None
                received += count
        return data

    def _send(self, answers: Sequence[Answer]) -> None:
        """Together: the server then wakes once."""
        parts: list[bytes | memoryview] = []
        for kind, forward_s, body in answers:
            parts += [REPLY.pack(kind, forward_s, len(body)), body]
        sent = self._work.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                self._work.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))


def _forward(forward: Forward, arrays: Sequence[EngineInput]) -> list[Answer]:
    """Run the network on pictures of one kind; where they fail together, on each alone."""
    if not arrays:
        return []
    began = time.monotonic()
    try:
        batch: Any = np.stack(arrays)  # of one dtype
        logits = forward(batch)
    except Exception as error:  # ONNX Runtime's have no base of their own, and tell no more
        if len(arrays) > 1:
            return [answer for array in arrays for answer in _forward(forward, [array])]
        if isinstance(error, MemoryError) or "alloc" in str(error):
            return [(NO_ROOM, 0.0, b"")]
        return [(BROKEN, 0.0, _place_of(error))]
    took = time.monotonic() - began
    return [(DONE, took, row.data.cast("B")) for row in logits]


def _place_of(error: Exception) -> bytes:
    """Where it came from, and none of its words: they may be a picture's."""
    frames = traceback.extract_tb(error.__traceback__, -8)
    places = (f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return "\n".join((type(error).__qualname__, *places)).encode()[:MAX_TEXT]
