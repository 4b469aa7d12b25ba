"""The processes that decode untrusted pictures, from the inside.

Pillow and numpy are imported once, by a nursery that has a single thread and forks a decoder
whenever the server asks: a decoder that died is replaced in milliseconds, and a server full of
threads is never forked. Nothing but raw pixels and short texts goes back to the server: it
unpickles nothing that a decoder says.

    stdin of the nursery   its terms (pickled), then for each decoder wanted two sockets
    control of a decoder   any byte: end it, answer its wait status; hang-up: end it
    work of a decoder      Request, picture → Reply, pixels or text; a ping has no picture
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import Preprocessing
from predictor.errors import ImageTooLarge, InvalidImage, PayloadTooLarge, UnsupportedMedia
from predictor.inference.decoding import DecodeLimits
from predictor.inference.priority import DECODER, give_way

Decoder: TypeAlias = Callable[[bytes | memoryview, Preprocessing, DecodeLimits], NDArray[np.uint8]]

REQUEST: Final = struct.Struct("<Q")
PING: Final = 2**64 - 1
"""In place of a picture's size: answer with no pixels."""
REPLY: Final = struct.Struct("<BI")
STATUS: Final = struct.Struct("<i")
PIXELS, OUT_OF_MEMORY, BROKEN = 0, 1, 2
"""Kinds of reply. BROKEN is a fault of ours, and its text says where."""
REFUSALS: Final = {10: InvalidImage, 11: ImageTooLarge, 12: UnsupportedMedia, 13: PayloadTooLarge}
"""Kinds of reply that are the picture's fault; their text is for the caller."""
MAX_TERMS: Final = 64 * 1024
_KIND_OF: Final[dict[type, int]] = {kind: number for number, kind in REFUSALS.items()}
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """How to decode, and what one picture may cost.

    Attributes:
        max_cpu_s: CPU seconds of one picture, after which the kernel ends the process.
        max_memory_bytes: private memory of one process, its interpreter included.
    """

    decoder: Decoder
    preprocessing: Preprocessing
    limits: DecodeLimits
    max_cpu_s: float
    max_memory_bytes: int


def main() -> None:
    """The nursery: fork decoders until the server hangs up. They all end with it."""
    # Python would end a decoder by an exception, and its exit code would not say why.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = socket.socket(fileno=0)
    terms: Terms = pickle.loads(server.recv(MAX_TERMS))  # noqa: S301  # from our own server
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
                message, descriptors, _, _ = socket.recv_fds(server, 1, 2)
                if not message:
                    return
                control, work = (socket.socket(fileno=each) for each in descriptors)
                try:
                    pid = os.fork()
                except OSError:  # who asked sees that its connection ends; the others decode on
                    control.close()
                    work.close()
                    continue
                if pid == 0:
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    _close_all(selector, control)
                    _decode_for(work, terms)
                work.close()
                selector.register(control, selectors.EVENT_READ, (control, pid))


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


def _decode_for(work: socket.socket, terms: Terms) -> NoReturn:
    """A decoder: serve until the server hangs up."""
    give_way(DECODER)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds pictures
        resource.setrlimit(resource.RLIMIT_DATA, (terms.max_memory_bytes,) * 2)
        while (data := _receive(work)) is not None:
            kind, body = _answer(data, terms)
            del data
            head = REPLY.pack(kind, len(body))
            sent = work.sendmsg([head, body])  # together: the server waits for each
            if sent < len(head) + len(body):
                work.sendall(memoryview(body)[sent - len(head) :])
            del body
            if kind == OUT_OF_MEMORY:
                break  # what was half done when memory ran out stays half done
    finally:
        os._exit(0)


def _receive(work: socket.socket) -> bytearray | None:
    """The next picture, or None when there will be no more. Answers pings."""
    size = PING
    while size == PING:
        head = work.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(head) < REQUEST.size:
            return None
        (size,) = REQUEST.unpack(head)
        if size == PING:
            work.sendall(REPLY.pack(PIXELS, 0))
    data = bytearray(size)
    received = 0
    with memoryview(data) as view:
        while received < size:
            count = work.recv_into(view[received:], 0, socket.MSG_WAITALL)
            if count == 0:
                return None
            received += count
    return data


def _answer(data: bytearray, terms: Terms) -> tuple[int, bytes | memoryview]:
    # The signal's default action ends the process, wherever in C code it is.
    signal.setitimer(signal.ITIMER_PROF, terms.max_cpu_s)
    try:
        pixels = terms.decoder(memoryview(data), terms.preprocessing, terms.limits)
        return PIXELS, pixels.data.cast("B")
    except (InvalidImage, ImageTooLarge, UnsupportedMedia, PayloadTooLarge) as refusal:
        return _KIND_OF[type(refusal)], refusal.message.encode()
    except MemoryError:
        return OUT_OF_MEMORY, b""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__, -8)
        places = (f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
        return BROKEN, "\n".join((type(error).__qualname__, *places)).encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
