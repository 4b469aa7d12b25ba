"""The work of every peer: a picture's bytes in, its probabilities out; imported by their servers.

Written as timm's and ONNX Runtime's own documentation has it. What a server is asked to do comes
from the environment, because some of them are started by programs of their own:
PEER_BUNDLE, PEER_ENGINE (torch or onnx), PEER_PORT, PEER_GRPC_PORT, PEER_CORES.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Classifier(Protocol):
    def prepare(self, picture: bytes) -> Any:
        """Decode, resize and crop one picture."""
        ...

    def probabilities(self, prepared: Sequence[Any]) -> list[dict[str, float]]:
        """Label to probability, for each picture of a batch."""
        ...


def make(threads: int | None = None) -> Classifier:
    """Args: threads: of one forward; None leaves the library's default, which is every core."""
    bundle = Path(os.environ["PEER_BUNDLE"])
    config = json.loads((bundle / "config.json").read_text())
    if os.environ["PEER_ENGINE"] == "onnx":
        return _Onnx(bundle, config, threads)
    return _Torch(bundle, config, threads)


def cores() -> int:
    return int(os.environ["PEER_CORES"])


class _Torch:
    def __init__(self, bundle: Path, config: dict[str, Any], threads: int | None) -> None:
        import timm
        import torch
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        if threads:
            torch.set_num_threads(threads)
        self._labels = config["label_names"]
        self._module = timm.create_model(
            config["architecture"],
            num_classes=config["num_classes"],
            checkpoint_path=str(bundle / "model.safetensors"),
        ).eval()
        data = resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"])  # type: ignore[no-untyped-call]
        self._transform = create_transform(**data, is_training=False)

    def prepare(self, picture: bytes) -> Any:
        return self._transform(Image.open(io.BytesIO(picture)).convert("RGB"))

    def probabilities(self, prepared: Sequence[Any]) -> list[dict[str, float]]:
        import torch

        with torch.inference_mode():
            rows = self._module(torch.stack(list(prepared))).softmax(dim=1).tolist()
        return [dict(zip(self._labels, row, strict=True)) for row in rows]


class _Onnx:
    """The bundle's own graph, which normalises inside."""

    def __init__(self, bundle: Path, config: dict[str, Any], threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._labels = config["label_names"]
        self._side = config["pretrained_cfg"]["input_size"][-1]
        self._scaled = math.floor(self._side / config["pretrained_cfg"]["crop_pct"])
        self._resampling = Image.Resampling[config["pretrained_cfg"]["interpolation"].upper()]
        self._no_tensor = np.empty((0, 3, self._side, self._side), np.float32)

    def prepare(self, picture: bytes) -> Any:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        scale = self._scaled / min(image.size)
        size = (int(image.width * scale + 1e-9), int(image.height * scale + 1e-9))
        image = image.resize(size, self._resampling)
        left, top = ((length - self._side) / 2 for length in image.size)
        left, top = round(left), round(top)
        return np.asarray(image.crop((left, top, left + self._side, top + self._side)))

    def probabilities(self, prepared: Sequence[Any]) -> list[dict[str, float]]:
        inputs = {"pixels": np.stack(prepared), "tensor": self._no_tensor}
        (logits,) = self._session.run(None, inputs)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        rows = (powers / powers.sum(axis=1, keepdims=True)).tolist()
        return [dict(zip(self._labels, row, strict=True)) for row in rows]
