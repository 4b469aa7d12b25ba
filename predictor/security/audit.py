"""Who asked what and what was answered: recorded without making anybody wait."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np

from predictor.errors import NotReady, SettingsError
from predictor.inference.pictures import EncodedImage, Picture
from predictor.security.audit_chain import ENDED, STARTED, Chain, read_key
from predictor.security.audit_file import AuditFile
from predictor.settings import AuditSettings

log = logging.getLogger("predictor.audit")

CAPACITY: Final = 10_000
"""Records that may wait to be written."""
RETRY_S: Final = 0.5
_BATCH: Final = 1000


class Sink(Protocol):
    def write(self, data: bytes, /) -> None:
        """Write whole lines, all of them or none.

        Raises:
            OSError: none.
        """
        ...

    def close(self) -> None: ...


class AuditLog:
    """Takes records on the event loop and writes them, chained, in a thread of its own.

    Args:
        sink: closed with the log.
        closed: refuse requests while records cannot be written.

    Raises:
        OSError: the first record cannot be written.
    """

    def __init__(self, sink: Sink, chain: Chain, *, closed: bool, capacity: int = CAPACITY) -> None:
        self._sink = sink
        self._chain = chain
        self._closed = closed
        self._capacity = capacity
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.failing = False
        self.dropped = 0
        self._dropped_recorded = 0
        sink.write(self._lines([_fields(STARTED, algorithm=chain.algorithm)]))
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, message: str, **fields: Any) -> None:
        """Have a record written soon. Never waits; fields are JSON without floats."""
        if not self._closed and self._queue.qsize() >= self._capacity:
            self.dropped += 1
            return
        # Where that is to refuse, `require` has: what still comes was in flight.
        self._queue.put(_fields(message, **fields))

    @property
    def blocking(self) -> bool:
        """Whether requests must be refused now, for they would go unrecorded."""
        lost = self.failing or not self._thread.is_alive()
        return self._closed and (lost or self._queue.qsize() >= self._capacity)

    def require(self) -> None:
        """Go on only if what follows can be recorded.

        Raises:
            NotReady: it cannot.
        """
        if self.blocking:
            raise NotReady("the audit log cannot be written; retry on another replica")

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, and end the chain. Nothing may be recorded afterwards."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.critical("audit records may be lost: they are not written in time")
        else:
            self._sink.close()

    def _run(self) -> None:
        while True:
            batch, last = self._next_batch()
            if self.dropped > self._dropped_recorded:
                count = self.dropped - self._dropped_recorded
                self._dropped_recorded += count
                batch.append(_fields("records dropped", count=count))
            if last:
                batch.append(_fields(ENDED))
            if not self._deliver(self._lines(batch)):
                count = len(batch) + self._queue.qsize()
                log.critical("audit records are lost", extra={"count": count})
                return
            if last:
                return

    def _next_batch(self) -> tuple[list[dict[str, Any]], bool]:
        """Wait for records; with them, whether they are the last."""
        batch: list[dict[str, Any]] = []
        while len(batch) < _BATCH and (not batch or not self._queue.empty()):
            entry = self._queue.get()
            if entry is None:
                return batch, True
            batch.append(entry)
        return batch, False

    def _deliver(self, lines: bytes) -> bool:
        """Write until it works. False when it does not and the process is stopping."""
        while True:
            try:
                self._sink.write(lines)
            except OSError as error:
                if not self.failing:
                    self.failing = True
                    log.error("audit records cannot be written", extra={"reason": error.strerror})
                if self._stopping.wait(RETRY_S):
                    return self._try_once_more(lines)
            else:
                if self.failing:
                    self.failing = False
                    log.info("audit records are written again")
                return True

    def _try_once_more(self, lines: bytes) -> bool:
        try:
            self._sink.write(lines)
        except OSError:
            return False
        return True

    def _lines(self, records: Sequence[dict[str, Any]]) -> bytes:
        return "".join(self._chain.link(record) + "\n" for record in records).encode("ascii")


def open_audit(settings: AuditSettings, stdout: Sink) -> AuditLog | None:
    """Start the audit that the settings ask for; None when they ask for none.

    Args:
        stdout: where the log goes.

    Raises:
        SettingsError: its file or its secret cannot be used.
    """
    if settings.destination == "off":
        return None
    key = read_key(settings.hmac_key_file, "audit.hmac_key_file")
    closed = settings.on_failure == "closed"
    sink, previous = stdout, None
    if settings.file is not None:
        sink = file = AuditFile(settings.file)
        previous = file.previous
    try:
        return AuditLog(sink, Chain(key, previous), closed=closed)
    except OSError as error:
        sink.close()
        raise SettingsError(
            f"audit: the first record cannot be written: {error.strerror}"
        ) from None


def digests(pictures: Sequence[Picture]) -> list[str]:
    """SHA-256 in hex of each picture: of a file's bytes, or of an array's in C order.

    Takes 0.1 ms to many: not for the event loop.
    """
    return [hashlib.sha256(_content(picture)).hexdigest() for picture in pictures]


def _content(picture: Picture) -> bytes | memoryview:
    if isinstance(picture, EncodedImage):
        return picture.data
    return np.ascontiguousarray(picture.array).data


def _fields(message: str, **fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": "INFO", "message": message, **fields}
