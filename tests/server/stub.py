"""The real server with a controllable network: what a test needs to make time stand still.

Run as a program by `ServerProcess(command=("-m", "tests.server.stub"))`. Everything but the
network is the product: process, sockets, signals, decoding, batcher, kserve. The network
answers by the picture's mean red value, takes STUB_FORWARD_S seconds a batch, writes one line
per batch to STUB_LOG, and fails on a picture whose mean red is POISON. Pictures of tests/faults.py
break their decoder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor import cli
from predictor.bundle.manifest import read_manifest
from predictor.inference.batcher import Batcher
from predictor.inference.classifier import Classifier, open_pool
from predictor.inference.engine import EngineInput
from predictor.settings import Settings
from tests import faults

POISON = 251


class StubEngine:
    name = "stub"
    device = "cpu"

    def __init__(self) -> None:
        self.forward_s = float(os.environ.get("STUB_FORWARD_S", "0"))
        self.log = Path(os.environ["STUB_LOG"])

    def warm_up(self, batch_sizes: Sequence[int]) -> None: ...

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        reds = [round(float(item[..., 0].mean())) for item in batch]
        with self.log.open("a") as log:
            log.write(json.dumps(reds) + "\n")
        time.sleep(self.forward_s)
        if POISON in reds:
            raise RuntimeError("secret-of-the-network")
        return np.stack([[red / 100, 0.0] for red in reds]).astype(np.float32)


def load_classifier(settings: Settings) -> Classifier:
    time.sleep(float(os.environ.get("STUB_LOAD_S", "0")))
    manifest = read_manifest(settings.model.path)
    batcher = Batcher(
        StubEngine(),
        max_batch_size=settings.batching.max_batch_size,
        max_queue=settings.batching.max_queue,
        max_wait_s=settings.batching.max_wait_ms / 1000,
    )
    batcher.start()
    return Classifier(manifest, batcher, open_pool(settings, manifest.preprocessing, faults.decode))


if __name__ == "__main__":
    from predictor.serving import server  # kserve: not beside the tritonclient of the tests

    setattr(server, "load_classifier", load_classifier)  # noqa: B010  # not exported for others
    sys.exit(cli.main(["serve"]))
