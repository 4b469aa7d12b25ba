"""From a module to an ONNX graph that answers the same, in memory or in its bundle."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.bundle.answers import answers, normalise, probabilities
from predictor.bundle.files import (
    CONFIG,
    FORMAT_VERSION,
    GOLDEN,
    GRAPH,
    REALFAKE,
    WEIGHTS,
    read_own,
    sha256,
)
from predictor.bundle.graph import (
    LOGITS,
    PARITY_TOLERANCE,
    PIXELS,
    TENSOR,
    Session,
    open_graph,
)
from predictor.bundle.loader import load_module
from predictor.bundle.manifest import Manifest, Preprocessing, read_golden_vectors, read_manifest
from predictor.errors import BundleError

OPSET: Final = 18
EXPORTER: Final = f"torch {torch.__version__.partition('+')[0]}"
_NETWORK: Final = "network."


@dataclass(frozen=True, slots=True)
class Exported:
    """Attributes: the file, its size in bytes, and how near it is to the weights."""

    path: Path
    size: int
    parity: float


class _Served(torch.nn.Module):
    """What the graph computes: normalisation as `TorchEngine` has it, then the network."""

    def __init__(self, network: torch.nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.mean = torch.nn.Buffer(torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.std = torch.nn.Buffer(torch.tensor(preprocessing.std).view(1, 3, 1, 1))
        self.white = torch.nn.Buffer(torch.tensor(255.0))

    def forward(self, pixels: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        normalised = (pixels.permute(0, 3, 1, 2).float() / self.white - self.mean) / self.std
        logits: torch.Tensor = self.network(torch.cat([normalised, tensor]))
        return logits


def export(path: Path) -> Exported:
    """Write `model.onnx` into a bundle, and its digest and parity into `realfake.json`.

    Its weights stay in `model.safetensors`, to which it refers as ONNX's external data: nothing
    is there twice. The same bundle gives the same bytes. A refused bundle is left as it was.

    Raises:
        BundleError: the network has no such graph, or the graph answers differently.
    """
    manifest = read_manifest(path, graph=False)
    module = load_module(manifest)
    target = manifest.path / GRAPH
    graph, document = target.with_name(f".{GRAPH}.new"), target.with_name(f".{REALFAKE}.new")
    try:
        # Beside the weights, because that is where ONNX Runtime looks for them.
        graph.write_bytes(_without_weights(trace(module, manifest), manifest.weights))
        difference = parity(module, open_graph(graph, manifest), manifest)
        text = json.dumps(_described(manifest, sha256(graph), difference), indent=2) + "\n"
        document.write_text(text, encoding="utf-8")
        graph.replace(target)
        document.replace(manifest.path / REALFAKE)
    except OSError as error:
        raise BundleError(f"{manifest.path}: cannot be written: {error.strerror}") from None
    finally:
        for temporary in (graph, document):
            with suppress(OSError):  # gone already, or not ours to remove
                temporary.unlink()
    return Exported(target, target.stat().st_size, difference)


def exported_session(manifest: Manifest) -> Session:
    """A graph for a bundle that has none, in memory only.

    Raises:
        BundleError: the network has no such graph, or the graph answers differently.
    """
    module = load_module(manifest)
    graph = trace(module, manifest)
    parity(module, open_graph(graph, manifest), manifest)
    return open_graph(graph, manifest)  # a session keeps the memory of its largest batch


def trace(module: torch.nn.Module, manifest: Manifest) -> bytes:
    """The whole graph, weights included.

    By torch's exporter on TorchScript: it exports more of what timm builds, sooner, and without
    another dependency (docs/decisions/0005).

    Raises:
        BundleError: torch cannot export this network.
    """
    height, width = manifest.preprocessing.input_size
    # Two and one: a size that is 1 everywhere can end up as a constant.
    examples = (
        torch.zeros(2, height, width, 3, dtype=torch.uint8),
        torch.zeros(1, 3, height, width),
    )
    file = io.BytesIO()
    try:
        with _quietly(), torch.inference_mode():
            torch.onnx.export(
                _Served(module, manifest.preprocessing).eval(),
                examples,
                file,  # type: ignore[arg-type]  # it takes one; its own examples pass it
                dynamo=False,
                opset_version=OPSET,
                input_names=[PIXELS, TENSOR],
                output_names=[LOGITS],
                dynamic_axes={PIXELS: {0: "n"}, TENSOR: {0: "m"}, LOGITS: {0: "n_plus_m"}},
                # Left to ONNX Runtime, so that each weight is still the one in the bundle.
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )
    except Exception:  # each layer that ONNX does not know fails in its own way
        raise BundleError(
            f"{manifest.architecture}: {EXPORTER} cannot export it to ONNX; serve it with "
            "model.engine torch"
        ) from None
    return file.getvalue()


def parity(module: torch.nn.Module, session: Session, manifest: Manifest) -> float:
    """Largest difference of a probability, over golden and random pictures, alone and together.

    Raises:
        BundleError: it is above the tolerance, or the graph does not run.
    """
    pixels = _pictures(manifest)
    expected = answers(module, manifest, pixels)
    normalised = normalise(pixels, manifest.preprocessing).numpy()
    try:
        found = [
            (session(pixels), expected),
            (session(pixels[:1]), expected[:1]),
            (session(pixels[-3:]), expected[-3:]),
            (session(normalised), expected),
        ]
    except Exception:  # a graph with a size traced into it fails in whichever layer comes first
        difference = float("inf")
    else:
        difference = max(
            float(np.abs(probabilities(torch.from_numpy(logits), manifest) - wanted).max())
            for logits, wanted in found
        )
    if not difference <= PARITY_TOLERANCE:
        raise BundleError(
            f"{manifest.architecture}: its ONNX graph answers differently from the weights (by "
            f"{difference:.2g}, at most {PARITY_TOLERANCE:g} is allowed); serve it with "
            "model.engine torch"
        )
    return difference


def _pictures(manifest: Manifest) -> NDArray[np.uint8]:
    """Golden pictures, noise, and coarse blocks: noise alone looks all the same to a network."""
    height, width = manifest.preprocessing.input_size
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    coarse = random.integers(0, 256, (2, -(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    blocks = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    golden = read_golden_vectors(manifest)
    return np.concatenate([noise, blocks, *([] if golden is None else [golden.pixels])])


def _without_weights(graph: bytes, weights: Path) -> bytes:
    """Let each tensor that lies in a safetensors file as it is be read from there."""
    import onnx

    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors: dict[str, Any] = json.loads(file.read(length))
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        entry = tensors.get(tensor.name.removeprefix(_NETWORK))
        if (
            entry is None
            or (entry["dtype"], tensor.data_type) != ("F32", onnx.TensorProto.FLOAT)
            or entry["shape"] != list(tensor.dims)
        ):
            continue
        begin, end = entry["data_offsets"]
        place = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def _described(manifest: Manifest, digest: str, difference: float) -> dict[str, Any]:
    """`realfake.json` as it was, with the graph in it."""
    own = read_own(manifest.path)
    kept = {} if own is None else dict(own.values)
    files = dict(manifest.files) or {
        name: sha256(manifest.path / name)
        for name in (CONFIG, WEIGHTS, GOLDEN)
        if (manifest.path / name).is_file()
    }
    kept.pop("files", None)
    kept["onnx"] = {
        "parity": difference,
        "exporter": EXPORTER,
        "exported_from": {name: files[name] for name in (CONFIG, WEIGHTS)},
    }
    return {"format_version": FORMAT_VERSION, **kept, "files": {**files, GRAPH: digest}}


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter warns of itself, and of every branch in Python that it sees one side of.

    What such a branch would change is what `parity` measures.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
