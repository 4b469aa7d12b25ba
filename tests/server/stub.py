"""The real server with a controllable network: what a test needs to make time stand still.

Run as a program by `ServerProcess(command=("-m", "tests.server.stub"))`. Everything but the
network is the product: process, sockets, signals, decoding, batcher, kserve. The network
answers by the picture's mean red value, takes STUB_FORWARD_S seconds a batch, writes one line
per batch to STUB_LOG, and fails in its way on a picture of a mean red below. STUB_POLL_S is how
often it looks at files that it follows. SIGUSR1 stops the event loop until the file STUB_BLOCKED,
which it makes, is gone. Pictures of tests/faults.py break their decoder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor import cli
from predictor.bundle.manifest import read_manifest
from predictor.inference.classifier import Classifier, build_classifier
from predictor.inference.engine import EngineInput, EngineLost
from predictor.security import watching
from predictor.settings import Settings
from tests import faults
from tests.fake_engine import FakeEngine

POISON = 251
"""An error of this picture alone."""
BREAKS = 252
"""The device is lost, as after a sticky CUDA error."""
HANGS = 253
"""The forward never returns."""
DIES = 254
"""The device thread ends."""


class StubEngine(FakeEngine):
    name = "stub"

    def __init__(self) -> None:
        self.forward_s = float(os.environ.get("STUB_FORWARD_S", "0"))
        self.log = Path(os.environ["STUB_LOG"])

    def forward(self, batch: EngineInput) -> NDArray[np.float32]:
        reds = [round(float(item[..., 0].mean())) for item in batch]
        with self.log.open("a") as log:
            log.write(json.dumps(reds) + "\n")
        time.sleep(self.forward_s)
        if POISON in reds:
            raise RuntimeError("secret-of-the-network")
        if BREAKS in reds:
            raise EngineLost
        if HANGS in reds:
            threading.Event().wait()
        if DIES in reds:
            raise SystemExit
        return np.stack([[red / 100, 0.0] for red in reds]).astype(np.float32)


def load_classifier(settings: Settings) -> Classifier:
    time.sleep(float(os.environ.get("STUB_LOAD_S", "0")))
    manifest = read_manifest(settings.model.path)
    return build_classifier(manifest, StubEngine(), settings, faults.decode)


def block(*_: object) -> None:
    """Python runs a signal's handler in the main thread, which is the event loop's."""
    blocked = Path(os.environ["STUB_BLOCKED"])
    blocked.touch()
    while blocked.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    # Not at the top: tests import this module, and kserve clashes with their tritonclient.
    from predictor.serving import server

    setattr(server, "load_classifier", load_classifier)  # noqa: B010  # not exported for others
    setattr(watching, "POLL_S", float(os.environ.get("STUB_POLL_S", watching.POLL_S)))  # noqa: B010
    signal.signal(signal.SIGUSR1, block)
    sys.exit(cli.main(["serve"]))
