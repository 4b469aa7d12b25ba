"""What answers cost by what they have cost lately, as the admission asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from predictor.inference.cost import CostCurve

_MEMORY: Final = 0.05
"""Weight of the newest picture in the means: the last sixty count for 95 %."""


class Costs(Protocol):
    """Of one way from picture to logits.

    Attributes:
        at_once: pictures that can be worked at without waiting for one another.
        decoders: pictures decoded at once.
    """

    @property
    def at_once(self) -> int: ...

    @property
    def decoders(self) -> int: ...

    def undecoded(self) -> int:
        """Pictures that wait for a decoder, or a lane that is a process, or are with one."""
        ...

    def seconds(self, pictures: float, decoded: int) -> float:
        """Expected until so many pictures are answered, of which `decoded` are decoded already."""
        ...

    def pace_s(self) -> float:
        """Expected between two answers while there is always more to do."""
        ...


class Mean:
    """A mean that forgets. From any thread; of two observations at once, one may be lost."""

    def __init__(self) -> None:
        self.value = 0.0

    def observe(self, seconds: float) -> None:
        if self.value == 0.0:
            self.value = seconds
        self.value += _MEMORY * (seconds - self.value)


@dataclass(frozen=True, slots=True)
class StagedCosts:
    """Decoding some pictures while others are in a forward.

    Attributes:
        forward: seconds by batch size.
        decode: of one picture.
        lanes: forwards at once.
        max_batch_size: most pictures in one forward.
        backlog: see `Costs.undecoded`.
    """

    forward: CostCurve
    decode: Mean
    decoders: int
    lanes: int
    max_batch_size: int
    backlog: Callable[[], int]

    @property
    def at_once(self) -> int:
        """See `Costs.at_once`."""
        return self.lanes + self.decoders

    def undecoded(self) -> int:
        """See `Costs.undecoded`."""
        return self.backlog()

    def seconds(self, pictures: float, decoded: int) -> float:
        """See `Costs.seconds`.

        The slower of the two sets the pace; the first picture (or the last) passes both.
        """
        decoding = max(0.0, pictures - decoded) * self.decode.value / self.decoders
        in_lane = math.ceil(pictures / self.lanes)
        batch = max(1, min(self.max_batch_size, in_lane))
        forwards = math.ceil(in_lane / batch) * self.forward.seconds(batch)
        return max(decoding, forwards) + min(self.decode.value, self.forward.seconds(1))

    def pace_s(self) -> float:
        """See `Costs.pace_s`."""
        batch = self.max_batch_size
        forward = self.forward.seconds(batch) / batch / self.lanes
        return max(forward, self.decode.value / self.decoders)


@dataclass(frozen=True, slots=True)
class LaneCosts:
    """Each lane does all of a picture, and then the next.

    Attributes:
        picture: one, decoded and in its share of a forward.
        lanes: pictures at once.
        backlog: see `Costs.undecoded`.
    """

    picture: Mean
    lanes: int
    backlog: Callable[[], int]

    @property
    def at_once(self) -> int:
        """See `Costs.at_once`."""
        return self.lanes

    @property
    def decoders(self) -> int:
        """See `Costs.decoders`."""
        return self.lanes

    def undecoded(self) -> int:
        """See `Costs.undecoded`."""
        return self.backlog()

    def seconds(self, pictures: float, decoded: int) -> float:
        """See `Costs.seconds`; the last one takes its whole time, whoever shared the rest."""
        return (max(0.0, pictures - 1) / self.lanes + 1) * self.picture.value

    def pace_s(self) -> float:
        """See `Costs.pace_s`."""
        return self.picture.value / self.lanes
