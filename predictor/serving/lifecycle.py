"""The states of the process, and who may ask what in each.

    starting ──► ready ──► draining ──► stopped
        │          │           │           ▲
        └──────────┴───────────┴─► failed ─┘

Any state can also go straight to stopped.

============  =======  =====  =========
state         live     ready  inference
============  =======  =====  =========
starting      yes      no     NOT_READY
ready         yes      yes    served
draining      yes      no     served (load balancers learn late that we leave)
failed        no       no     NOT_READY (the device is lost; the process is about to end)
stopped       no       no     refused
============  =======  =====  =========
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


_NEXT = {
    State.STARTING: {State.READY, State.DRAINING, State.FAILED, State.STOPPED},
    State.READY: {State.DRAINING, State.FAILED, State.STOPPED},
    State.DRAINING: {State.FAILED, State.STOPPED},
    State.FAILED: {State.STOPPED},
    State.STOPPED: set[State](),
}


class Lifecycle:
    """Holds the state; lives on the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self._listeners: list[Callable[[State], None]] = []

    def on_change(self, listener: Callable[[State], None]) -> None:
        self._listeners.append(listener)

    def enter(self, state: State) -> None:
        """Move on to `state`.

        Raises:
            ValueError: the states only go forward.
        """
        if state not in _NEXT[self.state]:
            raise ValueError(f"cannot go from {self.state.value} to {state.value}")
        self.state = state
        for listener in self._listeners:
            listener(state)

    @property
    def is_live(self) -> bool:
        return self.state not in (State.FAILED, State.STOPPED)

    @property
    def is_ready(self) -> bool:
        """Whether new traffic should be sent here."""
        return self.state is State.READY

    @property
    def is_serving(self) -> bool:
        """Whether a request that arrives now is answered."""
        return self.state in (State.READY, State.DRAINING)

    @property
    def is_draining(self) -> bool:
        return self.state is State.DRAINING
