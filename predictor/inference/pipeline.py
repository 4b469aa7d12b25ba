"""The way from pictures to logits, as the classifier asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from predictor.inference.costs import Costs
from predictor.inference.delivery import Item
from predictor.inference.observer import Observer
from predictor.inference.pictures import Picture
from predictor.inference.timeline import Timeline


class Pipeline(Protocol):
    """Decodes pictures and runs the network on them, off the event loop.

    Attributes:
        engine: ``torch`` or ``onnx``; a metric label and part of the model's metadata.
        device: ``cpu``, ``cuda:0``.
        gpu: UUID of the GPU, as CUDA gives it; None on a CPU.
        costs: what the admission goes by.
        observer: who is told how pictures fare.
    """

    observer: Observer

    @property
    def costs(self) -> Costs: ...

    @property
    def engine(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def gpu(self) -> str | None: ...

    @property
    def queue_depth(self) -> int:
        """Pictures that wait for the network."""
        ...

    @property
    def decodes(self) -> bool:
        """False once no decoder can be started any more."""
        ...

    @property
    def healthy(self) -> bool:
        """False once it will not answer any more, until the process is started again."""
        ...

    @property
    def longest_forward_s(self) -> float:
        """Seconds since the oldest forward that still runs began, as far as only the end of the
        process would end it; 0 when none runs."""
        ...

    def run(
        self,
        pictures: Sequence[Picture],
        *,
        caller: str,
        deadline: float | None,
        timeline: Timeline,
    ) -> AbstractContextManager[list[Item]]:
        """Send the pictures of one request on their way; `answers_of` waits for them. Who leaves
        the context waits no more.

        Raises:
            NotReady: it is closed.
            Overloaded: it cannot work now.
        """
        ...

    def abandon(self) -> None:
        """Fail what waits for a device that will not answer any more."""
        ...

    async def close(self) -> None:
        """End threads and processes; what still waits gets NotReady."""
        ...
