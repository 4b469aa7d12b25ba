"""What the server and a decoder process say to each other, byte by byte.

Nothing but numbers, pixels and short texts goes back to the server: it unpickles nothing that a
decoder says.

    stdin of the nursery   Terms (pickled), then READY or why not; for each decoder wanted its
                           two sockets and its progress
    control of a decoder   any byte: end it, answer its wait status; hang-up: end it
    work of a decoder      GROUP, then for each picture REQUEST and its bytes → for each picture
                           REPLY and its bytes, in the same order, together
    progress of a decoder  one byte of shared memory: which picture of the group it is decoding
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.files import WEIGHTS
from predictor.bundle.manifest import Preprocessing
from predictor.errors import (
    ImageTooLarge,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedMedia,
)
from predictor.inference.decoding import DecodeLimits
from predictor.inference.engine import EngineInput
from predictor.inference.pictures import EncodedImage, Picture, Pixels, Tensor

Decoder: TypeAlias = Callable[[bytes | memoryview, Preprocessing, DecodeLimits], NDArray[np.uint8]]

READY: Final = b"+"
MAX_TEXT: Final = 4096
MAX_TERMS: Final = 64 * 1024

GROUP: Final = struct.Struct("<Bdd")
"""How many pictures; the seconds, and the CPU seconds, after which the kernel ends the process
while it decodes one of them. No pictures: answer with no reply but one that is empty."""
REQUEST: Final = struct.Struct("<BIIQ")
"""Kind, height and width of pixels, size."""
REPLY: Final = struct.Struct("<BdI")
"""Kind, seconds in the network, size."""
STATUS: Final = struct.Struct("<i")

ENCODED, PIXELS, CROP, TENSOR = range(4)
"""Kinds of picture: a file; pixels of any size; what the network sees; the same, normalised."""
DONE, OUT_OF_MEMORY, NO_ROOM, BROKEN = range(4)
"""Kinds of reply: the result; decoding, or the network, found no memory; a fault of ours, and the
text says where."""
EXIT_OUT_OF_MEMORY: Final = 11
"""How a decoder ends that finds none for a picture while others are with it, or before it has the
whole picture."""
REFUSALS: Final = {10: InvalidImage, 11: ImageTooLarge, 12: UnsupportedMedia, 13: PayloadTooLarge}
"""Kinds of reply that are the picture's fault; their text is for the caller."""


@dataclass(frozen=True, slots=True)
class Network:
    """The graph that decoders run on what they decoded, where they do.

    Attributes:
        graph: its file, whose weights lie beside it.
        largest_batch: pictures in one forward, at most.
        files: what `files_of` said of the bundle that was verified: another one under the same
            name, which a later nursery would find, is not it.
    """

    graph: Path
    num_classes: int
    largest_batch: int
    files: tuple[tuple[int, ...], ...]


def files_of(graph: Path) -> tuple[tuple[int, ...], ...]:
    """What tells a graph's file, and that of its weights, from others: size, and the time of the
    last change in nanoseconds. Inodes would, too, but a mounted bucket may give them anew."""
    found = (each.stat() for each in (graph, graph.with_name(WEIGHTS)))
    return tuple((file.st_size, file.st_mtime_ns) for file in found)


@dataclass(frozen=True, slots=True)
class Terms:
    """How to decode, and what one picture may cost.

    Attributes:
        max_cpu_s: CPU seconds of one picture, after which the kernel ends the process.
        max_memory_bytes: private memory of one process, its interpreter included, and the
            network's weights not.
        network: None where decoders answer with pixels.
    """

    decoder: Decoder
    preprocessing: Preprocessing
    limits: DecodeLimits
    max_cpu_s: float
    max_memory_bytes: int
    network: Network | None = None

    @property
    def result(self) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
        """What one picture becomes: logits float32 (K,), or a crop uint8 (H, W, 3)."""
        if self.network is not None:
            return np.dtype(np.float32), (self.network.num_classes,)
        return np.dtype(np.uint8), (*self.preprocessing.input_size, 3)


def request_of(picture: Picture) -> list[bytes | memoryview]:
    """One picture of a group, as it is sent."""
    if isinstance(picture, EncodedImage):
        data = memoryview(picture.data).cast("B")
        return [REQUEST.pack(ENCODED, 0, 0, len(data)), data]
    if isinstance(picture, Pixels):
        height, width, _ = picture.array.shape
        return _array_request(PIXELS, picture.array, height, width)
    return _array_request(TENSOR, picture.array)


def crop_request(array: EngineInput) -> list[bytes | memoryview]:
    """What the network sees, as one picture of a group."""
    return _array_request(CROP if array.dtype == np.uint8 else TENSOR, array)


def _array_request(
    kind: int, array: EngineInput, height: int = 0, width: int = 0
) -> list[bytes | memoryview]:
    data = np.ascontiguousarray(array).data.cast("B")
    return [REQUEST.pack(kind, height, width, len(data)), data]


def size_of(picture: Picture) -> int:
    """Bytes."""
    return len(picture.data) if isinstance(picture, EncodedImage) else picture.array.nbytes


def is_tensor(picture: Picture) -> bool:
    return isinstance(picture, Tensor)
