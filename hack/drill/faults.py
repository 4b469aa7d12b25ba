"""Three faults, done to real processes from outside, and how each is undone."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from hack.drill.installation import KEY_ID, Installation
from hack.drill.load import Load
from predictor.security import api_keys

TIMES_CAPACITY: Final = 4


class Fault(ABC):
    """One fault.

    Attributes:
        name: what chooses it on the command line.
        alert: the one that has to fire.
        mitigation: how the point of its runbook starts that `repair` follows.
        log: a field of the log lines to look at and its value; None for whatever there is.
        silent: why a query of the runbook, by its start, rightly has no answer here.
    """

    name: str
    alert: str
    mitigation: str
    log: tuple[str, str] | None = None
    silent: Mapping[str, str] = {}

    @abstractmethod
    def inject(self, installation: Installation) -> str:
        """Break it; return what was done."""

    @abstractmethod
    def repair(self, installation: Installation) -> str:
        """Mend it; return what was done."""

    def end(self) -> None:  # noqa: B027  # most faults leave nothing that repair() has not ended
        """Leave nothing behind; called after an interruption as well."""


class Overload(Fault):
    name = "overload"
    alert = "RealfakeSheddingLoad"
    mitigation = "One key sends most of it"
    log = ("code", "OVERLOADED")

    def __init__(self) -> None:
        self._load: Load | None = None
        self._capacity = 0.0

    def inject(self, installation: Installation) -> str:
        self._load = Load(lambda: installation.pod.port, installation.api_key)
        self._capacity = self._load.capacity()
        self._load.start(TIMES_CAPACITY * self._capacity)
        return (
            f"one caller sends {TIMES_CAPACITY * self._capacity:.0f} large pictures a second, "
            f"{TIMES_CAPACITY} times what is answered"
        )

    def repair(self, installation: Installation) -> str:
        old = installation.pod
        rate = f"{max(1, int(self._capacity / 4))}/second"
        new = installation.add("--rate-limit.rates", f"{KEY_ID}={rate}")
        installation.remove(old)
        return f"{new.name} took over from {old.name}, with rate_limit.rates {KEY_ID}={rate}"

    def end(self) -> None:
        if self._load is not None:
            self._load.stop()


class BrokenKey(Fault):
    name = "keys"
    alert = "RealfakeReloadFailing"
    mitigation = "Put the last good content back, or repair the file"
    log = ("logger", "predictor.security")
    silent: Mapping[str, str] = {
        "inference_certificate_not_after_timestamp_seconds": "TLS is off in this drill"
    }

    def __init__(self) -> None:
        self._key = api_keys.generate()

    def inject(self, installation: Installation) -> str:
        (installation.keys / "rotated").write_text(self._key[:6])
        return "a new key was written to auth.keys_dir, and cut off after 6 characters"

    def repair(self, installation: Installation) -> str:
        (installation.keys / "rotated").write_text(self._key)
        return "the file holds the whole key now"


class FrozenReplica(Fault):
    name = "frozen"
    alert = "RealfakeMetricsMissing"
    mitigation = "Pods hang"
    silent: Mapping[str, str] = {
        "count by (job) (inference_in_flight": "no metrics arrive; that is the alert"
    }

    def inject(self, installation: Installation) -> str:
        installation.pod.process.send_signal(signal.SIGSTOP)
        return (
            f"SIGSTOP to {installation.pod.name}, the only replica: it hangs, with its ports open"
        )

    def repair(self, installation: Installation) -> str:
        frozen = installation.pod
        new = installation.add()
        installation.remove(frozen, signal.SIGKILL)
        return f"{frozen.name} was deleted, and {new.name} came in its place"


def faults() -> tuple[Fault, ...]:
    """Those of a drill, in order: each leaves a healthy installation to the next."""
    return (Overload(), BrokenKey(), FrozenReplica())
