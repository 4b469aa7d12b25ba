"""Files that change under a running process: the last good value, whatever happens to them.

The kubelet swaps a mounted Secret by pointing its `..data` link at a new directory. inotify
sees neither that link's target on every filesystem nor a remount, so this looks once a second,
in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from predictor.errors import SettingsError

log = logging.getLogger("predictor.security")

POLL_S: Final = 1.0
_ATTEMPTS: Final = 5

T = TypeVar("T")
Signature: TypeAlias = tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class ReloadState:
    """How reloading goes, for a metric.

    Attributes:
        last_success: Unix time at which the value in use was read.
        failures: attempts that were refused since the start; the last good value stayed.
    """

    last_success: float
    failures: int = 0


class Watched(Generic[T]):
    """A value read from files; read again when they change, replaced only by a good one.

    Args:
        what: names the value in the log.
        signature: differs when the files do; cheap.
        load: reads the files. SettingsError when they cannot be used.
        on_change: told of the old and the new value, in the watching thread.

    Raises:
        SettingsError: from `load`, at the start.
    """

    def __init__(
        self,
        what: str,
        signature: Callable[[], Signature],
        load: Callable[[], T],
        on_change: Callable[[T, T], None] = lambda old, new: None,
    ) -> None:
        self._what = what
        self._signature = signature
        self._load = load
        self._on_change = on_change
        self._problem: str | None = None
        self._seen, self.value = self._read()
        self.state = ReloadState(time.time())

    def start(self) -> None:
        """Watch for the rest of the process's life."""
        threading.Thread(target=self._run, name=f"watch {self._what}", daemon=True).start()

    def poll(self) -> None:
        """Look once. Never raises: a watch that ended would keep a revoked key alive."""
        try:
            if self._problem is not None or self._signature() != self._seen:
                self._reload()
        except SettingsError as error:
            self._fail(error.message)
        except Exception as error:
            self._fail(f"{self._what}: unexpected {type(error).__name__}")

    def _run(self) -> None:
        while True:
            time.sleep(POLL_S)
            self.poll()

    def _reload(self) -> None:
        self._seen, value = self._read()
        old, self.value = self.value, value
        self.state = replace(self.state, last_success=time.time())
        if self._problem is not None:
            self._problem = None
            log.info("reloading works again", extra={"watched": self._what})
        if value != old:
            self._on_change(old, value)

    def _read(self) -> tuple[Signature, T]:
        """Load a version that did not change while it was read, with its signature."""
        for _ in range(_ATTEMPTS):
            before = self._signature()
            try:
                value = self._load()
            except SettingsError:
                if self._signature() == before:
                    raise
            else:
                if self._signature() == before:
                    return before, value
        raise SettingsError(f"{self._what}: the files keep changing while they are read")

    def _fail(self, problem: str) -> None:
        self.state = replace(self.state, failures=self.state.failures + 1)
        if problem != self._problem:  # it will be tried again every second
            self._problem = problem
            log.error(
                "cannot reload; the last good version stays in use",
                extra={"watched": self._what, "problem": problem},
            )


def fingerprint(path: Path) -> tuple[object, ...]:
    """What differs when the file at `path` was replaced, rewritten, or became unreadable."""
    try:
        status = path.stat()
    except OSError as error:
        return (str(path), error.errno)
    return (str(path), status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
