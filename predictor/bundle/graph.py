"""The network as an ONNX graph: what a bundle says about its own, and how to run one.

A graph takes uint8 pictures and normalised tensors, of which a caller leaves one empty, and joins
them behind the normalisation: one session and one set of weights for both, without a branch.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.fields import Fields
from predictor.bundle.files import GRAPH, WEIGHTS
from predictor.errors import BundleError

if TYPE_CHECKING:
    from predictor.bundle.manifest import Manifest

PIXELS: Final = "pixels"
TENSOR: Final = "tensor"
LOGITS: Final = "logits"
PARITY_TOLERANCE: Final = 1e-4
"""Of probabilities; what golden vectors are held to as well."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What was measured when the graph was made.

    Attributes:
        parity: largest difference of a probability between the graph and the weights.
        exporter: `torch 2.15.0`.
    """

    parity: float
    exporter: str


def read_graph_facts(own: Fields, sources: Mapping[str, str | None]) -> GraphFacts | None:
    """Read the section `onnx` of `realfake.json`, or None where there is none.

    Args:
        sources: SHA-256 by name of the files that a graph is made from, as they are now.

    Raises:
        BundleError: the graph is of other weights or preprocessing, or too far from them.
    """
    if own.values.get("onnx") is None:
        return None
    section = own.mapping("onnx", {})
    made_from = section.mapping("exported_from", {})
    for name, digest in sources.items():
        if made_from.values.get(name) != digest:
            raise made_from.wrong(
                name, f"{GRAPH} was made from another one; run `python -m predictor model export`"
            )
    parity = section.number("parity", math.inf)
    if not 0 <= parity <= PARITY_TOLERANCE:
        raise section.wrong("parity", f"must be there and at most {PARITY_TOLERANCE:g}")
    return GraphFacts(parity, section.text("exporter"))


class Session:
    """A graph in ONNX Runtime; safe to call from several threads at once.

    Each call computes in its caller's thread, so that nothing spins or waits for a slower thread.

    Args:
        source: a file, whose weights may lie in a file beside it, or the whole graph.
        input_size: (height, width) in pixels.

    Raises:
        BundleError: it is not a graph for pictures of this size and this number of classes.
    """

    def __init__(
        self, source: Path | bytes, *, input_size: tuple[int, int], num_classes: int
    ) -> None:
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        try:
            graph = source if isinstance(source, bytes) else source.read_bytes()
            weights = _weights_beside(source, options) if isinstance(source, Path) else None
            self._session: Any = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
            if weights is not None:  # it has copies of its own, in the order it computes
                weights.madvise(mmap.MADV_DONTNEED)
            self._weights = weights
        except Exception:  # its classes have no base of their own
            raise BundleError(
                f"{GRAPH}: ONNX Runtime {onnxruntime.__version__} cannot load it with {WEIGHTS}; "
                "run `python -m predictor model export` again"
            ) from None
        self._check(input_size, num_classes)
        height, width = input_size
        self._no_pixels = np.empty((0, height, width, 3), np.uint8)
        self._no_tensor = np.empty((0, 3, height, width), np.float32)

    def _check(self, input_size: tuple[int, int], num_classes: int) -> None:
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {end.name: (end.type, *end.shape[1:]) for end in ends}
        expected = {
            PIXELS: ("tensor(uint8)", *input_size, 3),
            TENSOR: ("tensor(float)", 3, *input_size),
            LOGITS: ("tensor(float)", num_classes),
        }
        if found != expected:
            raise BundleError(
                f"{GRAPH}: is not for pictures of {input_size[0]}x{input_size[1]} and "
                f"{num_classes} classes; run `python -m predictor model export` again"
            )

    def __call__(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 (N, K) of uint8 (N, H, W, 3) or normalised float32 (N, 3, H, W)."""
        if batch.dtype == np.uint8:
            feeds = {PIXELS: batch, TENSOR: self._no_tensor}
        else:
            feeds = {PIXELS: self._no_pixels, TENSOR: batch}
        [logits] = self._session.run(None, feeds)
        answers: NDArray[np.float32] = logits
        return answers


def open_graph(source: Path | bytes, manifest: Manifest) -> Session:
    """Run `source` as the graph of this bundle.

    Raises:
        BundleError: it is not one.
    """
    size = manifest.preprocessing.input_size
    return Session(source, input_size=size, num_classes=manifest.num_classes)


def _weights_beside(graph: Path, options: Any) -> mmap.mmap:
    """Let a graph find its weights in the bundle's file, and in no other.

    In memory, not by name: ONNX Runtime follows no name that it is not sure of, and KServe mounts
    an `oci://` bundle behind a link into another process.
    """
    with graph.with_name(WEIGHTS).open("rb") as file:
        weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
    return weights


def _import_onnxruntime() -> Any:
    """Without its telemetry, unless the environment says otherwise: since 1.29 its Linux builds
    report what they run to their maker, from a thread that a fork would lose. It looks at this
    when it is imported (its `Privacy.md`)."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


_FATAL: Final = 4
"""Errors come as exceptions, too, and stderr is for lines of JSON."""
