"""What `python -m predictor model inspect` and `verify` do: look at a bundle, and prove it.

torch is imported only where it is installed. Without it, what ONNX Runtime serves is proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.bundle.files import GRAPH
from predictor.bundle.graph import open_graph
from predictor.bundle.manifest import Manifest, read_golden_vectors, read_manifest
from predictor.bundle.packages import NO_GRAPH, installed
from predictor.bundle.verdicts import softmax
from predictor.errors import BundleError

GOLDEN_TOLERANCE: Final = 1e-4

Answers: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Calibrated probabilities float32 (N, K) of pictures uint8 (N, H, W, 3)."""


def inspect(path: Path, *, allow_pth: bool = False) -> dict[str, Any]:
    """Describe a bundle as plain data.

    Raises:
        BundleError: it cannot be described.
    """
    manifest = read_manifest(path, allow_pth=allow_pth)
    described = asdict(manifest)
    described["path"], described["weights"] = str(manifest.path), manifest.weights.name
    return described


def verify(path: Path, *, allow_pth: bool = False) -> list[str]:
    """Prove a bundle as a server would before it is ready, on the CPU.

    Returns:
        What was proven, a line each.

    Raises:
        BundleError: the first thing that does not hold.
    """
    manifest = read_manifest(path, allow_pth=allow_pth)
    digests = (
        f"{len(manifest.files)} digests match"
        if manifest.files
        else "no realfake.json: nothing says what the digests should be"
    )
    proven, answers = (_weights if installed("torch") else _graph_alone)(manifest)
    golden = read_golden_vectors(manifest)
    if golden is None:
        return [digests, *proven, "no golden vectors to replay"]
    difference = float(np.abs(answers(golden.pixels) - golden.probabilities).max())
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(f"golden vectors: an answer differs by {difference:.2g}")
    return [
        *(digests, *proven),
        f"{len(golden.pixels)} golden vectors answered within {difference:.1g}",
    ]


def _weights(manifest: Manifest) -> tuple[list[str], Answers]:
    """The weights by torch, and the graph, where there is one, by the weights."""
    from predictor.bundle import answers
    from predictor.bundle.export import parity
    from predictor.bundle.loader import load_module

    module = load_module(manifest)
    proven = [f"{manifest.architecture}: every tensor is there, finite and of its shape"]
    if manifest.graph is not None:
        difference = parity(module, open_graph(manifest.path / GRAPH, manifest), manifest)
        proven.append(f"{GRAPH} answers within {difference:.1g} of the weights")
    return proven, lambda pixels: answers.answers(module, manifest, pixels)


def _graph_alone(manifest: Manifest) -> tuple[list[str], Answers]:
    """The graph, with the weights that it reads."""
    if manifest.graph is None:
        raise BundleError(NO_GRAPH)
    session = open_graph(manifest.path / GRAPH, manifest)
    proven = [
        f"{GRAPH} loads with the weights; not compared with them, for torch is not installed here"
    ]
    return proven, lambda pixels: softmax(session(pixels), manifest.temperature)
