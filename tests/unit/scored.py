"""What a run of `score` was given and what it left, for the tests of both its sides."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from pyarrow import parquet

ROOT = Path(__file__).parents[2]
DEBUG = ROOT / "checkpoints" / "debug"
SAMPLES = DEBUG / "samples"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def records(journal: Path) -> dict[str, dict[str, Any]]:
    """Results by file name; a file that has two fails the test."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    by_name = {Path(line["path"]).name: line for line in lines}
    assert len(by_name) == len(lines)
    return by_name


def read_table(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        rows: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
        return rows
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
