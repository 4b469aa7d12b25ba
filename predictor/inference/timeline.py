"""Where the time of one request goes, and which network calls it shared with others."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Stage: TypeAlias = Literal["receive", "decode", "queue", "forward", "encode"]

STAGES: Final[tuple[Stage, ...]] = ("receive", "decode", "queue", "forward", "encode")
"""In the order of a request on a GPU: until its body is here, parsed and let in; until its last
picture is decoded, waiting for a decoder included; until its last picture leaves the queue; until
the network has answered; until the reply is written down. Where a lane does both, pictures wait in
the queue before they are decoded."""


class Passage(NamedTuple):
    """One stage of a request, from `began` to `ended`, `time.monotonic()`."""

    stage: Stage
    began: float
    ended: float


class Timeline:
    """What one request is at, and since when.

    Stages follow each other without a gap, so that they add up to the whole. A request that ends
    early ends in the stage it had reached.

    Args:
        began: `time.monotonic()` when it arrived.

    Attributes:
        pictures: how many it asked about; 0 until that is known.
        batch_size: pictures in the largest forward that one of its own was part of; 0 before.
        origin: whatever its maker recognises it by; inference only carries it.
        batch: what the observer of its last forward wants remembered.
    """

    __slots__ = ("_marks", "batch", "batch_size", "origin", "pictures")

    def __init__(self, began: float) -> None:
        self._marks: list[tuple[Stage, float]] = [("receive", began)]
        self.pictures = 0
        self.batch_size = 0
        self.origin: object = None
        self.batch: object = None

    @property
    def began(self) -> float:
        return self._marks[0][1]

    def enter(self, stage: Stage, at: float) -> None:
        """The stage before ends, and `stage` begins, at `time.monotonic()` `at`."""
        self._marks.append((stage, at))

    def passages(self, ended: float) -> list[Passage]:
        """The stages so far, the last one until `ended`."""
        ends = [*(began for _, began in self._marks[1:]), ended]
        return [
            Passage(stage, began, end)
            for (stage, began), end in zip(self._marks, ends, strict=True)
        ]
