"""LitServe with batches of up to 16, and a worker for each core."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import litserve
from classifier import cores, make


class Detector(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._classifier = make(threads=1)

    def decode_request(self, request: dict[str, str]) -> Any:
        return self._classifier.prepare(base64.b64decode(request["image_data"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Sequence[Any]) -> list[dict[str, float]]:
        return self._classifier.probabilities(x)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Detector(max_batch_size=16, batch_timeout=0.01),
        accelerator="cpu",
        workers_per_device=cores(),
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
