"""The command `score`: killed, interrupted, told to start over, given something wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from predictor.cli import main
from tests.server.process import eventually
from tests.unit.scored import DEBUG, ROOT, SAMPLES, names, read_table, records


def command(folder: Path, output: Path) -> list[str]:
    settings = ["--model.path", str(DEBUG), "--batching.max_batch_size", "4"]
    return ["score", str(folder), "--output", str(output), *settings]


def start(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "predictor", *argv],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A shell starts its background jobs with Ctrl-C ignored, and they hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


MANY = 3000


def many_files(folder: Path) -> set[str]:
    """Enough that a run takes seconds; every tenth is no picture."""
    folder.mkdir()
    bad = folder.with_name("bad")
    bad.write_bytes(b"no picture")
    samples = sorted(SAMPLES.iterdir())
    for index in range(MANY):
        source = samples[index % 4] if index % 10 else bad
        (folder / f"{index}.jpg").symlink_to(source)
    return names(folder)


def wait_for_lines(journal: Path, count: int) -> None:
    eventually(
        lambda: (journal.is_file() and journal.read_bytes().count(b"\n") >= count) or None,
        120,
        f"{count} results",
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = many_files(tmp_path / "in")
    output, journal = tmp_path / "results.parquet", tmp_path / "results.jsonl"
    with start(command(tmp_path / "in", output)) as process:
        try:
            wait_for_lines(journal, 20)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    lines = [json.loads(line) for line in journal.read_text().split("\n")[:-1]]
    assert 20 <= len(lines) < len(files), "the run was not cut off half way"
    assert not output.exists()
    with journal.open("ab") as file:
        file.write(b'{"path": "torn')  # what a kill may leave, and rarely does

    assert main(command(tmp_path / "in", output)) == 0
    verdicts = sum(line["code"] is None for line in lines)
    assert f"{MANY // 10} refused, {verdicts} taken over" in capsys.readouterr().err
    assert records(journal).keys() == files
    rows = read_table(output)
    assert Counter(Path(row["path"]).name for row in rows) == Counter(files)
    assert sum(row["code"] == "UNSUPPORTED_MEDIA" for row in rows) == MANY // 10


@pytest.mark.slow
def test_an_interrupted_run_ends_in_order(tmp_path: Path) -> None:
    files = many_files(tmp_path / "in")
    journal = tmp_path / "results.jsonl"
    process = start(command(tmp_path / "in", journal))
    wait_for_lines(journal, 20)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert 20 <= len(records(journal)) < len(files)


def test_the_command_starts_over_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command(SAMPLES, tmp_path / "r.csv")
    said = []
    for more in ([], [], ["--no-resume"]):
        assert main([*argv, *more]) == 0
        said.append(capsys.readouterr().err.splitlines()[-1].partition(":")[0])
    assert said == [
        "4 classified, 0 refused, 0 taken over from an earlier run",
        "0 classified, 0 refused, 4 taken over from an earlier run",
        "4 classified, 0 refused, 0 taken over from an earlier run",
    ]


def test_the_command_says_what_it_was_given_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "gone", tmp_path / "r.jsonl")) == 2
    assert "gone: no such file or folder" in capsys.readouterr().err
    assert main(command(SAMPLES, tmp_path / "r.txt")) == 2
    assert "r.txt must end in .jsonl, .csv, .parquet" in capsys.readouterr().err
    argv = ["score", str(SAMPLES), "--output", str(tmp_path / "r.jsonl")]
    assert main([*argv, "--model.path", str(tmp_path)]) == 3
    assert "no config.json" in capsys.readouterr().err
