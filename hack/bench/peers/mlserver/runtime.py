"""An MLServer runtime; `model-settings.json` beside it switches adaptive batching on."""

from __future__ import annotations

from classifier import make
from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Detector(MLModel):
    async def load(self) -> bool:
        self._classifier = make(threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pictures = self.decode(payload.inputs[0], default_codec=Base64Codec)
        prepared = [self._classifier.prepare(picture) for picture in pictures]
        answers = self._classifier.probabilities(prepared)
        output = ResponseOutput(
            name="probabilities",
            shape=[len(answers), 2],
            datatype="FP32",
            data=[value for answer in answers for value in answer.values()],
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
