"""Classify files and folders of pictures: one result for each file, whatever is in it.

Results are appended to a JSON-lines journal as they come, so that a run that was cut off goes on
where it stopped. `*.jsonl` output is the journal itself; CSV and Parquet are made from it at the
end, and the journal stays beside them.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from predictor.errors import (
    InternalError,
    InvalidImage,
    PayloadTooLarge,
    SettingsError,
    WireError,
)
from predictor.inference.classifier import Classifier
from predictor.inference.pictures import Classification, EncodedImage

log = logging.getLogger(__name__)

CONCURRENCY: Final = 8
"""Files in memory at once, so that the next is decoded while one is on the device."""
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
FORMATS: Final = (".jsonl", ".csv", ".parquet")
FIELDS: Final = (
    *("path", "size", "modified", "sha256", "verdict", "fake_prob", "probabilities"),
    *("model_version", "model_digest", "code", "error"),
)

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Summary:
    """Attributes: files classified, refused, and taken over from an earlier run."""

    classified: int
    refused: int
    resumed: int


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """List the files to score: what is named, and what looks like a picture in folders.

    Folders are walked in sorted order without following links to folders. What cannot be read is
    listed, too, a folder included: it gets a line in the results instead of being left out.

    Raises:
        SettingsError: a path that does not exist.
    """
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename))

    for path in paths:
        if not os.path.exists(path):  # unlike Path.exists, also where a folder cannot be searched
            raise SettingsError(f"{path}: no such file or folder, or not allowed to look")
        if not path.is_dir():
            found.append(path)
            continue
        for folder, folders, names in os.walk(path, onerror=unreadable):
            folders.sort()
            found += [
                Path(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)
            ]
    return list(dict.fromkeys(found))


async def score_paths(
    classifier: Classifier,
    files: Sequence[Path],
    output: Path,
    *,
    resume: bool = True,
    concurrency: int = CONCURRENCY,
    max_bytes: int = 10 * 1024 * 1024,
    progress: Progress | None = None,
) -> Summary:
    """Classify `files` and write `output`; never stopped by a bad file.

    Args:
        resume: keep verdicts of an earlier run for files whose size and time are unchanged,
            where the model is the same. What was refused is tried again.
        concurrency: files in memory at once.
        progress: called with the number of files done since the last call.

    Raises:
        SettingsError: a format that is not written here, a place that cannot be, or a file
            there that holds something else.
    """
    _check_format(output)
    journal = output if output.suffix == ".jsonl" else output.with_suffix(".jsonl")
    try:
        done = _read_journal(journal, classifier.manifest.digest) if resume else {}
        kept = {path: done[str(path)] for path in files if _same(done.get(str(path)), path)}
        remaining = [path for path in files if path not in kept]
        if progress is not None:
            progress(len(kept))
        _rewrite(journal, kept.values())
        refused = await _score(
            classifier,
            remaining,
            journal,
            concurrency=concurrency,
            max_bytes=max_bytes,
            progress=progress,
        )
        _convert(journal, output)
    except OSError as error:
        raise SettingsError(f"--output: cannot write {output}: {error.strerror}") from None
    return Summary(len(remaining) - refused, refused, len(kept))


def _check_format(output: Path) -> None:
    if output.suffix not in FORMATS:
        raise SettingsError(f"--output: {output.name} must end in {', '.join(FORMATS)}")
    if output.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise SettingsError("--output: .parquet needs pyarrow: pip install realfake[parquet]")


async def _score(
    classifier: Classifier,
    files: Sequence[Path],
    journal: Path,
    *,
    concurrency: int,
    max_bytes: int,
    progress: Progress | None,
) -> int:
    waiting: Iterator[Path] = iter(files)
    refused = 0
    with journal.open("a", encoding="utf-8") as lines:

        async def worker() -> None:
            nonlocal refused
            for path in waiting:
                record = await _record(classifier, path, max_bytes)
                refused += record["code"] is not None
                lines.write(json.dumps(record) + "\n")
                lines.flush()
                if progress is not None:
                    progress(1)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max(1, min(concurrency, len(files)))):
                    group.create_task(worker())
        except ExceptionGroup as failed:  # the disk is full; one reason is enough
            raise failed.exceptions[0] from None
    return refused


async def _record(classifier: Classifier, path: Path, max_bytes: int) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(FIELDS)
    record["path"] = str(path)
    record["model_version"] = classifier.manifest.version
    record["model_digest"] = classifier.manifest.digest
    try:
        data = await asyncio.to_thread(_read, path, max_bytes, record)
        [answer] = await classifier.classify([EncodedImage(data)])
    except WireError as error:
        record["code"], record["error"] = error.code, error.message
    except Exception:  # out of memory, say: it is this file's result, not the end of the run
        log.exception("a file could not be classified")
        record["code"], record["error"] = InternalError.code, "internal error; the log says more"
    else:
        record |= _answer(classifier.manifest.label_names, answer)
    return record


def _answer(labels: Sequence[str], answer: Classification) -> dict[str, Any]:
    return {
        "verdict": answer.verdict,
        "fake_prob": answer.fake_prob,
        "probabilities": dict(zip(labels, map(float, answer.probabilities), strict=True)),
    }


def _read(path: Path, max_bytes: int, record: dict[str, Any]) -> bytes:
    """Read a file that may be anything by now; a FIFO must not hold up the run."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidImage("not a regular file")
            record["size"], record["modified"] = facts.st_size, facts.st_mtime_ns
            if facts.st_size > max_bytes:
                raise PayloadTooLarge(
                    f"the picture is larger than {max_bytes} bytes (limits.max_image_bytes)"
                )
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InvalidImage(f"the file cannot be read: {error.strerror}") from None
    record["sha256"] = hashlib.sha256(data).hexdigest()
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _read_journal(journal: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Verdicts of an earlier run by path; a line that was torn by a crash is dropped.

    Raises:
        SettingsError: it holds something else, which must not be overwritten.
    """
    done: dict[str, dict[str, Any]] = {}
    if not journal.exists():
        return done
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if not isinstance(record, dict) or "model_digest" not in record:
                raise SettingsError(
                    f"--output: {journal} holds something else than results; name another file, "
                    "or give --no-resume to overwrite it"
                )
            if _is_verdict(record, digest):
                done[record["path"]] = record
    return done


def _is_verdict(record: dict[str, Any], digest: str) -> bool:
    ours = record.keys() == set(FIELDS) and record["model_digest"] == digest
    return ours and record["code"] is None and isinstance(record["path"], str)


def _same(record: dict[str, Any] | None, path: Path) -> bool:
    if record is None:
        return False
    try:
        facts = path.stat()
    except OSError:
        return False
    return (record.get("size"), record.get("modified")) == (facts.st_size, facts.st_mtime_ns)


def _rewrite(journal: Path, records: Iterable[dict[str, Any]]) -> None:
    partial = journal.with_name(journal.name + ".partial")
    with partial.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(record) + "\n")
    partial.replace(journal)


def _convert(journal: Path, output: Path) -> None:
    if output == journal:
        return
    partial = output.with_name(output.name + ".partial")
    if output.suffix == ".csv":
        _write_csv(journal, partial)
    else:
        _write_parquet(journal, partial)
    partial.replace(output)


def _rows(journal: Path) -> Iterator[dict[str, Any]]:
    with journal.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            row["probabilities"] = row["probabilities"] and json.dumps(row["probabilities"])
            # A name that is not UTF-8 cannot be written as text; the journal keeps it as it is.
            row["path"] = row["path"].encode("utf-8", "backslashreplace").decode()
            yield row


def _write_csv(journal: Path, output: Path) -> None:
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(_rows(journal))


def _write_parquet(journal: Path, output: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"size": pa.int64(), "modified": pa.int64(), "fake_prob": pa.float64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in FIELDS])
    with parquet.ParquetWriter(output, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in _rows(journal):
            group.append(row)
            if len(group) == 10_000:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group.clear()
        writer.write_table(pa.Table.from_pylist(group, schema))
