"""The kserve model: wire request → pictures → classifications → wire answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import kserve
from kserve.model import InferenceVerb

from predictor.errors import NotReady
from predictor.inference.classifier import Classifier
from predictor.inference.pictures import Classification, Picture
from predictor.protocol.messages import ModelDescription
from predictor.security.audit import AuditLog, digests
from predictor.security.rate_limits import RateLimits
from predictor.serving.call import Call, call_var
from predictor.serving.lifecycle import Lifecycle
from predictor.telemetry.recording import Metrics

ReplyT = TypeVar("ReplyT")

INLINE_PARSE_BYTES = 256 * 1024
"""Bodies up to this size are parsed on the event loop: handing them to a thread costs more
than the 0.3 ms that base64 JSON of this size takes. Larger ones are parsed in a thread."""


@dataclass(frozen=True, slots=True)
class Job(Generic[ReplyT]):
    """A parsed request: what to classify, until when, and how to write the answer.

    Attributes:
        timeout_s: seconds the request itself allows (Triton's `timeout` parameter).
    """

    pictures: tuple[Picture, ...]
    encode: Callable[[Sequence[Classification]], ReplyT]
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class WireRequest(Generic[ReplyT]):
    """A request as it came in, with the function that parses it.

    Attributes:
        size: bytes; decides whether `parse` may run on the event loop.
        arrived: `time.monotonic()` when the request was accepted.
        deadline: `time.monotonic()` by which the transport wants the answer.
        caller: id of the API key; None where none is asked for.
    """

    parse: Callable[[ModelDescription], Job[ReplyT]]
    size: int
    arrived: float
    deadline: float
    caller: str | None = None


@dataclass(frozen=True, slots=True)
class _Timed(Generic[ReplyT]):
    job: Job[ReplyT]
    deadline: float
    caller: str | None


@dataclass(frozen=True, slots=True)
class _Answer(Generic[ReplyT]):
    job: Job[ReplyT]
    results: list[Classification]


class RealFakeModel(kserve.Model):  # type: ignore[misc]  # kserve ships no type information
    """Serves one classifier, under one name, to every protocol.

    The network's weights arrive later (`attach`): the ports are open while they load.

    Args:
        rate_limits: None when nothing is limited.
        audit: None when nothing is audited.
        metrics: None for some of its own, which nobody reads.
    """

    def __init__(
        self,
        name: str,
        lifecycle: Lifecycle,
        rate_limits: RateLimits | None = None,
        audit: AuditLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(name)
        self._lifecycle = lifecycle
        self._rate_limits = rate_limits
        self._audit = audit
        self._metrics = metrics or Metrics()
        self._classifier: Classifier | None = None
        self._description: ModelDescription | None = None

    def attach(self, classifier: Classifier) -> None:
        """Take the loaded classifier into service."""
        manifest = classifier.manifest
        self._description = ModelDescription(
            name=self.name,
            version=manifest.version,
            label_names=manifest.label_names,
            input_size=manifest.preprocessing.input_size,
            platform=f"{classifier.pipeline.engine}_{classifier.pipeline.device}",
            digest=manifest.digest,
        )
        self._classifier = classifier
        self.ready = True

    @property
    def description(self) -> ModelDescription:
        """What is served.

        Raises:
            NotReady: nothing yet.
        """
        if self._description is None:
            raise NotReady("the model is still loading; try again shortly")
        return self._description

    def load(self) -> bool:
        """kserve calls this on a model that is not ready; ours loads once, off the event loop."""
        return bool(self.ready)

    async def healthy(self) -> bool:
        if self._audit is not None and self._audit.blocking:
            return False
        return (
            self._lifecycle.is_ready
            and self._classifier is not None
            and self._classifier.pipeline.healthy
        )

    async def __call__(
        self,
        body: WireRequest[ReplyT],
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[ReplyT, dict[str, str]]:
        """kserve's own order of stages. Without its timers, which fill a registry that is not
        scraped here, and without asking each time which stages are coroutines: 0.05 ms."""
        if verb is not InferenceVerb.PREDICT:
            raise NotImplementedError
        timed = await self.preprocess(body, headers)
        answer = await self.predict(timed, headers)
        return await self.postprocess(answer, headers), {}

    async def preprocess(
        self, payload: WireRequest[Any], headers: dict[str, str] | None = None
    ) -> _Timed[Any]:
        if payload.size > INLINE_PARSE_BYTES:
            job = await asyncio.to_thread(payload.parse, self.description)
        else:
            job = payload.parse(self.description)
        deadline = payload.deadline
        if job.timeout_s is not None:
            deadline = min(deadline, payload.arrived + job.timeout_s)
        return _Timed(job, deadline, payload.caller)

    async def predict(
        self, payload: _Timed[Any], headers: dict[str, str] | None = None
    ) -> _Answer[Any]:
        if self._classifier is None:
            raise NotReady("the model is still loading; try again shortly")
        job, call = payload.job, call_var.get()
        call.model = self._description
        await self._limit(call, len(job.pictures))
        if self._audit is not None:
            call.digests = await asyncio.to_thread(digests, job.pictures)
        results = await self._classifier.classify(
            job.pictures,
            caller=payload.caller,
            deadline=payload.deadline,
            promised=call.promised,
            timeline=call.timeline,
        )
        call.verdicts = [result.verdict for result in results]
        return _Answer(job, results)

    async def _limit(self, call: Call, pictures: int) -> None:
        """Count the pictures of every protocol, before they cost anything more."""
        if self._rate_limits is None:
            return
        call.allowance = await self._rate_limits.take(call.key_id, pictures)
        if call.allowance is not None:
            call.allowance.require()

    async def postprocess(
        self, result: _Answer[ReplyT], headers: dict[str, str] | None = None
    ) -> ReplyT:
        began = time.monotonic()
        reply = result.job.encode(result.results)
        self._metrics.encoded(time.monotonic() - began)
        return reply
