"""The audit log: nobody waits for it, what it loses it says, and it harms no file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.cli import main
from predictor.errors import NotReady, SettingsError
from predictor.inference.pictures import EncodedImage, Picture, Pixels, Tensor
from predictor.security import audit
from predictor.security.audit import AuditLog, digests, open_audit
from predictor.security.audit_chain import ENDED, STARTED, Chain, parse
from predictor.security.audit_file import AuditFile
from predictor.security.audit_verify import Verifier, lines_of
from predictor.settings import AuditSettings
from predictor.telemetry.logging import LogLines, configure_logging
from tests.server.process import eventually


def records(*paths: Path) -> list[dict[str, Any]]:
    """What is in the files, which verify as one."""
    verifier = Verifier()
    for path in paths:
        with path.open("rb") as file:
            verifier.read(lines_of(file), path.name)
    assert verifier.report.problems == []
    lines = b"".join(path.read_bytes() for path in paths).splitlines()
    return [record for line in lines if (record := parse(line)) is not None]


def audited(path: Path, on_failure: str = "closed") -> AuditLog:
    settings = AuditSettings.model_validate(
        {"destination": "file", "file": path, "on_failure": on_failure}
    )
    log = open_audit(settings, stdout=Pipe())
    assert log is not None
    return log


def messages(path: Path) -> list[str]:
    return [record["message"] for record in records(path)]


class Pipe:
    """A place to write to that can be blocked, and can fail."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.error: Exception | None = None

    def write(self, lines: bytes) -> None:
        self.free.wait(30)
        if self.error is not None:
            raise self.error
        self.lines += [json.loads(line) for line in lines.splitlines()]

    def close(self) -> None: ...


class Full(io.RawIOBase):
    """A disk."""

    def __init__(self) -> None:
        self.full = False
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.written += bytes(data)
        return len(data)


@contextmanager
def configured(stream: io.TextIOWrapper) -> Iterator[None]:
    """Log there, and then where the tests do."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    configure_logging("CRITICAL", stream)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_a_record_waits_for_nobody_and_none_is_lost_at_the_end(tmp_path: Path) -> None:
    log = audited(tmp_path / "audit")
    for number in range(5000):
        log.record("inference", number=number)
    log.close()
    found = records(tmp_path / "audit")
    assert [record.get("number") for record in found] == [None, *range(5000), None]
    assert [found[0]["message"], found[-1]["message"]] == [STARTED, ENDED]


def test_open_drops_what_does_not_fit_and_says_how_much() -> None:
    pipe = Pipe()
    log = AuditLog(pipe, Chain(), closed=False, capacity=10)
    pipe.free.clear()
    for number in range(100):
        log.record("inference", number=number)
        log.require()
    pipe.free.set()
    log.close()
    kept = [line["number"] for line in pipe.lines if line["message"] == "inference"]
    dropped = [line["count"] for line in pipe.lines if line["message"] == "records dropped"]
    assert kept == sorted(kept)
    assert len(kept) >= 10
    assert len(kept) + sum(dropped) == 100
    assert dropped


def test_closed_refuses_instead_and_keeps_what_was_in_flight() -> None:
    pipe = Pipe()
    log = AuditLog(pipe, Chain(), closed=True, capacity=10)
    pipe.free.clear()
    for number in range(100):
        log.record("inference", number=number)
    with pytest.raises(NotReady):
        log.require()
    pipe.free.set()
    log.close()
    assert [line.get("number") for line in pipe.lines] == [None, *range(100), None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_closed_refuses_when_nobody_is_left_to_write() -> None:
    pipe = Pipe()
    log = AuditLog(pipe, Chain(), closed=True)
    log.require()
    pipe.error = ValueError("of no kind that is expected")
    log.record("inference", number=1)
    eventually(lambda: log.blocking or None, 30, "the writer's end to be noticed")
    with pytest.raises(NotReady):
        log.require()


def test_lines_that_were_written_late_are_written_once() -> None:
    """A stream keeps what it could not write, and writes it with the next."""
    stream = io.TextIOWrapper(io.BufferedWriter(raw := Full()), encoding="utf-8")
    with configured(stream):
        lines = LogLines()
        first, second = b"{}\n", b"[]\n"
        raw.full = True
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                lines.write(first)
        raw.full = False
        lines.write(first)
        lines.write(second)
    assert raw.written == b"{}\n[]\n"


@pytest.mark.parametrize("closed", [True, False])
def test_a_failure_is_told_once_and_ends(
    closed: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETRY_S", 0.01)
    caplog.set_level("INFO")
    pipe = Pipe()
    log = AuditLog(pipe, Chain(), closed=closed)
    pipe.error = OSError(28, "No space left on device")
    log.record("inference", number=1)
    eventually(lambda: log.failing or None, 30, "the failure to be noticed")
    assert log.blocking == closed
    pipe.error = None
    eventually(lambda: not log.failing or None, 30, "the failure to end")
    log.require()
    log.close()
    assert [line["message"] for line in pipe.lines] == [STARTED, "inference", ENDED]
    assert [record.message for record in caplog.records] == [
        "audit records cannot be written",
        "audit records are written again",
    ]


def test_what_is_lost_at_the_end_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETRY_S", 0.01)
    pipe = Pipe()
    log = AuditLog(pipe, Chain(), closed=True)
    pipe.error = OSError(28, "No space left on device")
    for number in range(7):
        log.record("inference", number=number)
    log.close()
    lost = [record for record in caplog.records if record.message == "audit records are lost"]
    assert len(lost) == 1
    assert lost[0].__dict__["count"] >= 7


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond a size, in the middle of a line, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_no_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    file = AuditFile(path)
    chain = Chain()
    file.write(chain.link({"message": STARTED}).encode() + b"\n")
    size = path.stat().st_size
    more = chain.link({"message": "inference"}).encode() + b"\n"
    with small_files(size + len(more) // 2), pytest.raises(OSError, match="large"):
        file.write(more)
    assert path.stat().st_size == size
    file.write(more)
    file.close()
    assert len(records(path)) == 2


def test_a_restart_goes_on_even_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        log = audited(path)
        log.record("inference")
        log.close()
    lines = path.read_bytes()
    path.write_bytes(lines[: lines.rindex(b'"message"')])  # as a kill in the middle of a write
    audited(path).close()
    assert messages(path)[-2:] == [STARTED, ENDED]
    assert len(path.read_bytes().splitlines()) == 8


def test_a_rotated_file_is_let_go(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    log = audited(path)
    log.record("inference", number=1)
    eventually(lambda: b"inference" in path.read_bytes() or None, 30, "the record")
    path.rename(old)
    log.record("inference", number=2)
    log.close()
    assert [record.get("number") for record in records(old, path)] == [None, 1, 2, None]
    assert json.loads(path.read_text().splitlines()[0])["number"] == 2


def verify(*arguments: str | Path) -> int:
    return main(["audit", "verify", *map(str, arguments)])


def test_what_an_honest_life_leaves_is_strictly_right(tmp_path: Path) -> None:
    """A restart, and a rotation while the process runs."""
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    audited(path).close()
    log = audited(path)
    path.rename(old)
    log.record("inference")
    log.close()
    audited(path).close()
    assert verify("--strict", old, path) == 0


def test_strict_does_not_trust_a_rotation_while_nothing_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing links the new file to the old one, so the end of that may have been cut."""
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    log = audited(path)
    log.record("inference")
    log.close()
    path.rename(old)
    audited(path).close()
    old.write_bytes(b"".join(old.read_bytes().splitlines(keepends=True)[:-2]))
    assert verify(old, path) == 0
    assert verify("--strict", old, path) == 1
    assert f"{path}:1: begins anew" in capsys.readouterr().err


def test_strict_sees_a_last_record_turned_into_something_else(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audited(path).close()
    text = path.read_text()
    path.write_text("realfake.other".join(text.rsplit("realfake.audit", 1)))
    assert verify(path) == 0
    assert verify("--strict", path) == 1


def test_a_file_that_cannot_be_stops_the_start(tmp_path: Path) -> None:
    other = tmp_path / "notes"
    other.write_text("do not append to me")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    taken = tmp_path / "audit"
    log = audited(taken)
    for path, reason in (
        (other, "something else"),
        (fifo, "not a regular file"),
        (taken, "another process"),
        (tmp_path, "directory"),
        (tmp_path / "none" / "audit", "No such file"),
        (Path("/dev/full"), "not a regular file"),
    ):
        with pytest.raises(SettingsError, match=reason):
            audited(path)
    log.close()
    assert other.read_text() == "do not append to me"


def test_a_first_record_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with small_files(10), pytest.raises(SettingsError, match="first record"):
        audited(tmp_path / "audit")


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    audited(tmp_path / "audit").close()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


def test_a_picture_is_known_by_its_bytes() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    tensor = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    turned = np.asfortranarray(pixels)
    pictures: list[Picture] = [
        EncodedImage(b"abc"),
        EncodedImage(memoryview(b"xabc")[1:]),
        Pixels(pixels),
        Pixels(turned),
        Tensor(tensor),
    ]
    contents = [b"abc", b"abc", pixels.tobytes(), pixels.tobytes(), tensor.tobytes()]
    assert digests(pictures) == [hashlib.sha256(content).hexdigest() for content in contents]
