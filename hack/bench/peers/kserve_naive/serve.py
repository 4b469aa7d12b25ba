"""A kserve.Model as its tutorials write one: the work is done in `predict`."""

from __future__ import annotations

import base64
import os
from typing import Any

import kserve
from classifier import make


class Detector(kserve.Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self._classifier = make()
        self.ready = True
        return True

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        if not isinstance(payload, kserve.InferRequest):
            pictures = [base64.b64decode(one["image"]["b64"]) for one in payload["instances"]]
            return {"predictions": self._classify(pictures)}
        answers = self._classify(payload.inputs[0].data)
        values = [value for answer in answers for value in answer.values()]
        output = kserve.InferOutput(
            name="probabilities", shape=[len(answers), 2], datatype="FP32", data=values
        )
        return kserve.InferResponse(
            response_id=payload.id, model_name=self.name, infer_outputs=[output]
        )

    def _classify(self, pictures: list[bytes]) -> list[dict[str, float]]:
        prepared = [self._classifier.prepare(picture) for picture in pictures]
        return self._classifier.probabilities(prepared)


if __name__ == "__main__":
    kserve.ModelServer(
        http_port=int(os.environ["PEER_PORT"]), grpc_port=int(os.environ["PEER_GRPC_PORT"])
    ).start([Detector("detector")])
