"""The product's decoder, and pictures that break it: files no decoder is known to fall for."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.manifest import Preprocessing
from predictor.errors import InternalError, InvalidImage, Overloaded, WireError
from predictor.inference import decoding
from predictor.inference.decoding import DecodeLimits

CRASH = b"fault:crash"
SPIN = b"fault:spin"
HANG = b"fault:hang:"
"""Also followed by a path: the decoder leaves a file there, and then does nothing, for long."""
GREEDY = b"fault:greedy"
LIE = b"fault:lie"
BUG = b"fault:bug"
GONE = b"fault:gone"
WHO = b"fault:who"
"""Answered with the decoder's process id, as the first pixels."""
TOUCH = b"fault:touch:"
"""Followed by a path: the decoder leaves a file there."""

COSTS: list[tuple[bytes, type[WireError], str]] = [
    (CRASH, InvalidImage, "breaks its decoder"),
    (SPIN, InvalidImage, r"decoding\.max_cpu_s"),
    (GREEDY, InvalidImage, r"decoding\.max_memory_bytes"),
    (GONE, Overloaded, "retry"),
    (LIE, InternalError, "internal error"),
    (BUG, InternalError, "internal error"),
]
"""What its own request gets, and words that say why."""


def decode(
    data: bytes | memoryview, preprocessing: Preprocessing, limits: DecodeLimits
) -> NDArray[np.uint8]:
    start = bytes(data[:200])
    pixels = np.zeros((*preprocessing.input_size, 3), dtype=np.uint8)
    if not start.startswith(b"fault:"):
        return decoding.decode(data, preprocessing, limits)
    if start == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif start == GONE:
        os.kill(os.getpid(), signal.SIGKILL)
    elif start == SPIN:
        while True:
            pass
    elif start.startswith(HANG):
        if start != HANG:
            Path(start.removeprefix(HANG).decode()).touch()
        time.sleep(3600)
    elif start == GREEDY:
        return np.ones((1 << 30, 1, 1), dtype=np.uint8)
    elif start == LIE:
        return pixels[:-1]
    elif start == WHO:
        pixels.reshape(-1)[:4] = np.frombuffer(os.getpid().to_bytes(4, "little"), dtype=np.uint8)
    elif start.startswith(TOUCH):
        Path(start.removeprefix(TOUCH).decode()).touch()
    else:
        raise RuntimeError("secret-of-the-picture")
    return pixels
