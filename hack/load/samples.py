"""What became of requests, and the figures that are made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

GOOD: Final = frozenset({"200", "OK"})
BROKEN: Final = "broken"
"""The code of a request whose connection failed, or whose answer was none."""
UNANSWERED: Final = "unanswered"
"""The code of a request that the client gave up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes: code: `200`, or gRPC's `UNAVAILABLE`, or one of those above."""

    code: str
    retry_after_s: float | None = None
    body: bytes = b""


class Caller(Protocol):
    """Sends one and the same request, as often as it is asked to, also at the same time."""

    async def ask(self) -> Answer:
        """Send it and wait; whatever the server does becomes an answer."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds from when it was due until it was answered.

    Attributes: came_back: its caller had been refused, and waited as long as it was told to.
    """

    code: str
    seconds: float
    retry_after_s: float | None = None
    came_back: bool = False


@dataclass(slots=True)
class Window:
    """The requests of a stretch of time.

    Attributes:
        client_late_s: how long after it was due the client itself sent a request, at worst.
    """

    taken_s: float
    samples: list[Sample] = field(default_factory=list)
    client_late_s: float = 0.0

    def seconds(self, *codes: str) -> list[float]:
        """In order; without `codes`, of the good answers."""
        wanted = codes or GOOD
        return sorted(sample.seconds for sample in self.samples if sample.code in wanted)

    @property
    def throughput(self) -> float:
        """Good answers a second."""
        return len(self.seconds()) / self.taken_s

    def goodput(self, deadline_s: float) -> float:
        """Good answers within the deadline, a second."""
        return sum(seconds <= deadline_s for seconds in self.seconds()) / self.taken_s

    @property
    def came_back(self) -> list[bool]:
        """Of each request whose caller waited as long as it was told to: was the answer good."""
        return [sample.code in GOOD for sample in self.samples if sample.came_back]

    @property
    def errors(self) -> float:
        """The share of requests without a good answer; of none at all, all."""
        if not self.samples:
            return 1.0
        return sum(sample.code not in GOOD for sample in self.samples) / len(self.samples)

    @property
    def codes(self) -> Counter[str]:
        return Counter(sample.code for sample in self.samples)

    @property
    def retry_after_s(self) -> list[float]:
        """What refusals said, in order."""
        told = [sample.retry_after_s for sample in self.samples]
        return sorted(seconds for seconds in told if seconds is not None)


def joined(windows: Sequence[Window]) -> Window:
    """Several stretches as one."""
    return Window(
        sum(window.taken_s for window in windows),
        [sample for window in windows for sample in window.samples],
        max((window.client_late_s for window in windows), default=0.0),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of `ordered` values that at least `share` of them do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def shown_ms(ordered: Sequence[float], share: float) -> str:
    """A percentile of seconds, in whole milliseconds; `-` where there is none."""
    value = percentile(ordered, share)
    return "-" if value is None else f"{value * 1000:.0f}"
