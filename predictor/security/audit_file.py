"""The file that audit records are appended to."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from predictor.errors import SettingsError
from predictor.security.audit_chain import parse

_TAIL_BYTES: Final = 1024 * 1024
"""Longer than any record: 1024 pictures (limits.max_pictures at most) take 80 KB."""


class AuditFile:
    """Appends whole lines, alone. Not safe to share between threads.

    Attributes:
        previous: the hash of the last record in the file; None in an empty one.

    Raises:
        SettingsError: it cannot be written, another process writes it, or it is no audit file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = _open(path)
            self.previous = _last_hash(self._descriptor)
        except OSError as error:
            raise SettingsError(
                f"audit.file: {path}: {error.strerror}; name a file on a volume that this user can "
                "write, its own for each replica"
            ) from None

    def write(self, data: bytes) -> None:
        """Append lines, all of them or none.

        Raises:
            OSError: none.
        """
        if self._was_moved():
            moved, self._descriptor = self._descriptor, _open(self._path)
            os.close(moved)
        size = os.fstat(self._descriptor).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        os.close(self._descriptor)

    def _was_moved(self) -> bool:
        """Whether a rotation has renamed the file under us."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return True
        ours = os.fstat(self._descriptor)
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)


def _open(path: Path) -> int:
    # O_NONBLOCK: opening a FIFO that nobody reads must not hang.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another process writes it") from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _last_hash(descriptor: int) -> str | None:
    """The hash of the last record; a line that a crash tore is closed, and counts as none."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - _TAIL_BYTES)
    tail = os.pread(descriptor, size - start, start)
    found = next((hash_ for line in reversed(tail.split(b"\n")) if (hash_ := _hash(line))), None)
    if found is None and tail.strip():
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it ends in something else than audit records")
    if size and not tail.endswith(b"\n"):
        os.write(descriptor, b"\n")
    return found


def _hash(line: bytes) -> str | None:
    record = parse(line)
    stated = None if record is None else record.get("hash")
    return stated if isinstance(stated, str) else None
