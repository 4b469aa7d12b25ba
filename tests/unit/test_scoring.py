"""Scoring files: one result for each, whatever is in it, however often the run is cut off."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from predictor.errors import SettingsError
from predictor.inference.classifier import Classifier, load_classifier
from predictor.inference.pictures import Classification, Picture
from predictor.inference.scoring import FIELDS, Summary, find_pictures, score_paths
from predictor.settings import Settings
from predictor.settings.groups import ModelSettings
from tests.hostile import HOSTILE
from tests.pictures import jpeg, noise, saved
from tests.unit.bundles import as_nobody, files_no_larger_than
from tests.unit.scored import DEBUG, SAMPLES, names, read_table, records

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def classifier() -> AsyncIterator[Classifier]:
    loaded = load_classifier(Settings(model=ModelSettings(path=DEBUG)))
    yield loaded
    await loaded.close()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES, tmp_path / "samples"))


async def score(
    classifier: Classifier, paths: Sequence[Path], output: Path, **options: Any
) -> Summary:
    return await score_paths(classifier, find_pictures(paths), output, **options)


# What a result says


async def test_each_file_gets_its_verdict(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    steps: list[int] = []
    summary = await score(classifier, [samples], output, progress=steps.append)
    assert summary == Summary(classified=4, refused=0, resumed=0)
    assert sum(steps) == 4
    results = records(output)
    assert {name: result["verdict"] for name, result in results.items()} == {
        **{"fake-1.jpg": "fake", "fake-2.jpg": "fake"},
        **{"photo-1.jpg": "real", "photo-2.jpg": "real"},
    }
    for result in results.values():
        assert result.keys() == set(FIELDS)
        assert result["fake_prob"] == pytest.approx(result["probabilities"]["fake"])
        assert result["model_digest"] == classifier.manifest.digest
        assert (result["code"], result["error"]) == (None, None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
async def test_a_table_says_what_the_journal_says(
    suffix: str, classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    (samples / 'broken, with\n"all".jpg').write_bytes(b"")
    output = tmp_path / f"results{suffix}"
    await score(classifier, [samples], output)
    journal = records(tmp_path / "results.jsonl")
    rows = {Path(row["path"]).name: row for row in read_table(output)}
    assert rows.keys() == journal.keys()
    for name, row in rows.items():
        assert tuple(row) == FIELDS
        assert (row["verdict"] or None) == journal[name]["verdict"]
        assert (row["code"] or None) == journal[name]["code"]
        assert int(row["modified"]) == journal[name]["modified"]
        if journal[name]["code"] is None:
            assert float(row["fake_prob"]) == journal[name]["fake_prob"]
            assert json.loads(row["probabilities"]) == journal[name]["probabilities"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
async def test_no_files_are_an_empty_result(
    suffix: str, classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    output = tmp_path / f"results{suffix}"
    assert await score(classifier, [tmp_path / "empty"], output) == Summary(0, 0, 0)
    assert (output.read_text() == "") if suffix == ".jsonl" else (read_table(output) == [])


# Nothing stops it


async def test_hostile_pictures_get_their_error(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    expected = {}
    for index, hostile in enumerate(HOSTILE):
        name = f"{index}.jpg"
        (tmp_path / "in" / name).write_bytes(hostile.make())
        expected[name] = None if hostile.code == "OK" else hostile.code
    summary = await score(classifier, [tmp_path / "in"], tmp_path / "results.jsonl")
    results = records(tmp_path / "results.jsonl")
    assert {name: result["code"] for name, result in results.items()} == expected
    assert summary.refused == sum(code is not None for code in expected.values())
    for result in results.values():
        assert (result["code"] is None) == (result["verdict"] is not None)


def strange_files(folder: Path) -> dict[str, str | None]:
    """Things that have a picture's name, and the code each must end in."""
    (folder / "folder.jpg").mkdir(parents=True)
    (folder / "folder.jpg" / "inside.png").write_bytes(saved(noise(), "PNG"))
    os.mkfifo(folder / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(folder)  # a socket's address is short
        server.bind("socket.jpg")
        os.chdir(before)
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "around").symlink_to(folder)
    (folder / "link.jpg").symlink_to(Path("folder.jpg", "inside.png"))
    (folder / "notes.txt").write_text("no picture")
    bad = ("fifo.jpg", "socket.jpg", "dangling.jpg", "loop.jpg", "device.jpg")
    return {"inside.png": None, "link.jpg": None, **dict.fromkeys(bad, "INVALID_IMAGE")}


async def test_what_only_looks_like_a_picture_gets_a_line(
    classifier: Classifier, tmp_path: Path
) -> None:
    expected = strange_files(tmp_path / "in")
    await score(classifier, [tmp_path / "in"], tmp_path / "results.jsonl")
    results = records(tmp_path / "results.jsonl")
    assert {name: result["code"] for name, result in results.items()} == expected
    assert "not a regular file" in results["fifo.jpg"]["error"]
    assert "No such file" in results["dangling.jpg"]["error"]


async def test_what_cannot_be_read_gets_a_line(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    """A folder that cannot be listed, too, or its pictures would be missing in silence."""
    (samples / "fake-1.jpg").chmod(0)
    (samples / "locked").mkdir(mode=0)
    (samples / "unsearchable").mkdir()
    (samples / "unsearchable" / "a.jpg").write_bytes(jpeg())
    (samples / "unsearchable").chmod(0o444)
    output = tmp_path / "out" / "results.jsonl"
    output.parent.mkdir()
    output.parent.chmod(0o777)
    with as_nobody(tmp_path):
        await score(classifier, [Path("samples")], Path("out", "results.jsonl"))
        with pytest.raises(SettingsError, match="no such file or folder, or not allowed"):
            find_pictures([Path("samples/unsearchable/a.jpg")])
    (samples / "locked").chmod(0o755)
    (samples / "unsearchable").chmod(0o755)
    errors = {name: result["error"] for name, result in records(output).items()}
    assert errors.keys() == names(SAMPLES) | {"locked", "a.jpg"}
    refused = {name for name, error in errors.items() if error and "Permission denied" in error}
    assert refused == {"fake-1.jpg", "locked", "a.jpg"}


async def test_a_file_that_vanishes_gets_a_line(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    files = find_pictures([samples])
    files[1].unlink()
    files[2].unlink()
    files[2].mkdir()
    summary = await score_paths(classifier, files, tmp_path / "results.jsonl")
    assert summary == Summary(classified=2, refused=2, resumed=0)
    results = records(tmp_path / "results.jsonl")
    assert results[files[1].name]["error"] == "the file cannot be read: No such file or directory"
    assert results[files[2].name]["code"] == "INVALID_IMAGE"


def files_of_any_name(folder: Path) -> Path:
    folder.mkdir()
    for name in (b"caf\xe9.jpg", "\u2028\x85 \U0001f600.jpg".encode(), b"new\nline.jpg"):
        (folder / os.fsdecode(name)).write_bytes(jpeg())
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
async def test_names_of_any_bytes_are_scored_and_taken_over(
    suffix: str, classifier: Classifier, tmp_path: Path
) -> None:
    folder = files_of_any_name(tmp_path / "in")
    output = tmp_path / f"results{suffix}"
    assert await score(classifier, [folder], output) == Summary(3, 0, 0)
    assert await score(classifier, [folder], output) == Summary(0, 0, 3)
    if suffix != ".jsonl":
        written = {Path(row["path"]).name for row in read_table(output)}
        assert {"caf\\udce9.jpg", "\u2028\x85 \U0001f600.jpg"} < written


async def test_a_file_over_the_limit_is_not_read(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    with (samples / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    await score(classifier, [samples], tmp_path / "results.jsonl", max_bytes=100_000)
    result = records(tmp_path / "results.jsonl")["huge.jpg"]
    assert result["code"] == "PAYLOAD_TOO_LARGE"
    assert (result["size"], result["sha256"]) == (1 << 40, None)
    assert "limits.max_image_bytes" in result["error"]


class OutOfMemory:
    """The classifier, but one picture takes all the memory there is."""

    def __init__(self, classifier: Classifier, data: bytes) -> None:
        self._classifier = classifier
        self._data = data
        self.manifest = classifier.manifest

    async def classify(self, pictures: Sequence[Picture]) -> list[Classification]:
        if pictures[0].data == self._data:  # type: ignore[union-attr]  # files only, here
            raise MemoryError
        return await self._classifier.classify(pictures)


async def test_an_accident_is_one_files_result(
    classifier: Classifier, samples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fault: Any = OutOfMemory(classifier, (samples / "fake-1.jpg").read_bytes())
    summary = await score(fault, [samples], tmp_path / "results.jsonl")
    assert summary == Summary(classified=3, refused=1, resumed=0)
    assert records(tmp_path / "results.jsonl")["fake-1.jpg"]["code"] == "INTERNAL"
    assert "MemoryError" in caplog.text


# Going on


async def test_only_what_changed_is_scored_again(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    await score(classifier, [samples], output)
    (samples / "fake-1.jpg").write_bytes(jpeg())
    os.utime(samples / "fake-2.jpg", ns=(1, 1))
    (samples / "photo-1.jpg").unlink()
    (samples / "new.png").write_bytes(saved(noise(), "PNG"))
    assert await score(classifier, [samples], output) == Summary(3, 0, 1)
    assert records(output).keys() == names(samples)
    assert await score(classifier, [samples], output, resume=False) == Summary(4, 0, 0)
    assert records(output).keys() == names(samples)


async def test_a_verdict_is_not_kept_for_a_file_that_is_gone(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    files, output = find_pictures([samples]), tmp_path / "results.jsonl"
    await score_paths(classifier, files, output)
    files[0].unlink()
    assert await score_paths(classifier, files, output) == Summary(0, 1, 3)


async def test_a_long_table_is_whole(classifier: Classifier, samples: Path, tmp_path: Path) -> None:
    """Parquet is written in groups of 10,000 rows; none may be lost or doubled between them."""
    first, output = samples / "fake-1.jpg", tmp_path / "results.parquet"
    await score(classifier, [first], output)
    journal = tmp_path / "results.jsonl"
    record = json.loads(journal.read_text())
    links = [samples / f"{index}.jpg" for index in range(10_001)]
    for link in links:
        link.hardlink_to(first)
    journal.write_text("".join(json.dumps({**record, "path": str(link)}) + "\n" for link in links))
    assert await score_paths(classifier, links, output) == Summary(0, 0, 10_001)
    assert [row["path"] for row in read_table(output)] == list(map(str, links))


async def test_what_was_refused_is_tried_again(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    """The limit may have been raised since, or the memory may suffice now."""
    output = tmp_path / "results.jsonl"
    assert await score(classifier, [samples], output, max_bytes=10) == Summary(0, 4, 0)
    assert await score(classifier, [samples], output) == Summary(4, 0, 0)


async def test_results_of_another_model_are_not_taken_over(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    await score(classifier, [samples], output)
    output.write_text(output.read_text().replace(classifier.manifest.digest, "0" * 64))
    assert await score(classifier, [samples], output) == Summary(4, 0, 0)


@pytest.mark.parametrize("torn", [b'{"pa', b'{"path": "a.jpg", "size": 1', b"\0" * 512, b"\xff\n"])
async def test_a_torn_line_is_scored_again(
    torn: bytes, classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    await score(classifier, [samples], output)
    whole = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(whole[:-1]) + torn)
    assert await score(classifier, [samples], output) == Summary(1, 0, 3)
    assert len(records(output)) == 4


async def test_lines_of_another_version_are_scored_again(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.csv"
    await score(classifier, [samples], output)
    journal = tmp_path / "results.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[0]["since_removed"] = 1
    del lines[1]["verdict"]
    lines[2]["path"] = 3
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert await score(classifier, [samples], output) == Summary(3, 0, 1)
    assert len(read_table(output)) == 4


async def test_a_thing_named_twice_is_scored_once(samples: Path) -> None:
    one = samples / "fake-1.jpg"
    found = find_pictures([one, samples, one, samples])
    assert max(Counter(found).values()) == 1
    assert len(found) == 4


async def test_files_named_by_hand_need_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(jpeg())
    (tmp_path / "UPPER.JPEG").write_bytes(jpeg())
    assert find_pictures([tmp_path / "picture"]) == [tmp_path / "picture"]
    assert find_pictures([tmp_path]) == [tmp_path / "UPPER.JPEG"]
    with pytest.raises(SettingsError, match=r"gone\.jpg: no such file"):
        find_pictures([tmp_path / "gone.jpg"])


# Where results go


@pytest.mark.parametrize("name", ["results.txt", "results", "results.CSV", "results.jsonl.gz"])
async def test_another_format_is_refused(
    name: str, classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=rf"{name} must end in \.jsonl, \.csv, \.parquet"):
        await score(classifier, [samples], tmp_path / name)
    assert not (tmp_path / name).exists()


async def test_missing_pyarrow_is_said_before_the_work(
    classifier: Classifier, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install realfake\[parquet\]"):
        await score(classifier, [samples], tmp_path / "results.parquet")
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.csv"])
async def test_other_peoples_lines_are_not_overwritten(
    name: str, classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    """Beside labels.csv the journal is labels.jsonl, which may be a data set."""
    (tmp_path / "labels.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
    with pytest.raises(SettingsError, match=r"labels\.jsonl holds something else than results"):
        await score(classifier, [samples], tmp_path / name)
    assert "cat" in (tmp_path / "labels.jsonl").read_text()
    summary = await score(classifier, [samples], tmp_path / name, resume=False)
    assert summary.classified == 4


async def test_a_place_that_cannot_be_written_is_named(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"cannot write .*gone.*: No such file or directory"):
        await score(classifier, [samples], tmp_path / "gone" / "results.jsonl")
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(SettingsError, match=r"cannot write .*: Is a directory"):
        await score(classifier, [samples], tmp_path / "results.csv")


async def test_a_full_disk_is_named_and_costs_no_result(
    classifier: Classifier, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    refused = pytest.raises(SettingsError, match=r"cannot write .*: File too large")
    with refused, files_no_larger_than(1000):
        await score(classifier, [samples], output)
    summary = await score(classifier, [samples], output)
    assert summary.resumed + summary.classified == 4
    assert summary.resumed >= 1
    assert len(records(output)) == 4
