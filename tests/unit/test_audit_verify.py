"""`audit verify` finds what was done to a file of records, and says at which line."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.cli import main
from predictor.security.audit_chain import ENDED, STARTED, Chain
from predictor.security.audit_verify import Verifier, lines_of

Output = pytest.CaptureFixture[str]
Lines = list[str]
SECRET = b"0123456789abcdef0123456789abcdef"


def chain_of(records: int, key: bytes | None = None, previous: str | None = None) -> Lines:
    """The lines of a process that answered so many requests."""
    chain = Chain(key, previous)
    started = chain.link({"message": STARTED, "algorithm": chain.algorithm})
    answers = [chain.link({"message": "inference", "key_id": f"k{n}"}) for n in range(records)]
    return [started, *answers, chain.link({"message": ENDED})]


def last_hash(lines: Lines) -> str:
    return str(json.loads(lines[-1])["hash"])


def problems(
    lines: Lines, key: bytes | None = None, *, strict: bool = False
) -> list[tuple[int, str]]:
    """Line number, counted from 0, and the first word or two of each problem."""
    verifier = Verifier(key, strict=strict)
    text = "".join(line + "\n" for line in lines).encode()
    verifier.read(lines_of(io.BytesIO(text)), "log")
    found = [problem.split(":", 2)[1:] for problem in verifier.report.problems]
    return [(int(number) - 1, text.split(":")[0].strip()) for number, text in found]


def altered(line: str, **fields: Any) -> str:
    return json.dumps(json.loads(line) | fields)


def without(line: str, name: str) -> str:
    record = json.loads(line)
    del record[name]
    return json.dumps(record)


def rehashed(line: str, **fields: Any) -> str:
    """What a forger without the secret can do: a record whose own hash is right."""
    record = json.loads(line) | fields
    forger = Chain(previous=record["previous"])
    forger.identity, forger._seq = record["chain"], record["seq"]
    kept = {k: v for k, v in record.items() if k not in ("chain", "seq", "previous", "hash")}
    return forger.link(kept)


REMOVED, ALTERED, REPEATED = "removed before it", "altered", "repeated or reordered"
DAMAGE: dict[str, tuple[Callable[[Lines], Lines], list[tuple[int, str]]]] = {
    "nothing": (lambda lines: lines, []),
    "other spacing and order of fields": (
        lambda lines: [
            json.dumps(
                dict(reversed(json.loads(line).items())), indent=None, separators=(" , ", ":")
            )
            for line in lines
        ],
        [],
    ),
    "other lines between": (
        lambda lines: ["no json", '{"logger": "predictor.access"}', *lines, "[1]", "", "{"],
        [],
    ),
    "a removed line": (lambda lines: lines[:3] + lines[4:], [(3, REMOVED)]),
    "several removed lines": (lambda lines: lines[:3] + lines[6:], [(3, REMOVED)]),
    "a removed first line": (lambda lines: lines[1:], [(0, REMOVED)]),
    "two swapped lines": (
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        [(3, REMOVED), (4, REPEATED)],
    ),
    "a repeated line": (lambda lines: [*lines[:4], lines[3], *lines[4:]], [(4, REPEATED)]),
    "a file twice": (
        lambda lines: lines + lines[:3],
        [(10, REPEATED), (11, REPEATED), (12, REPEATED)],
    ),
    "an altered field": (
        lambda lines: [*lines[:3], altered(lines[3], key_id="x"), *lines[4:]],
        [(3, ALTERED)],
    ),
    "an added field": (
        lambda lines: [*lines[:3], altered(lines[3], note="x"), *lines[4:]],
        [(3, ALTERED)],
    ),
    "a removed field": (
        lambda lines: [*lines[:3], without(lines[3], "key_id"), *lines[4:]],
        [(3, ALTERED)],
    ),
    "a removed hash": (
        lambda lines: [*lines[:3], without(lines[3], "hash"), *lines[4:]],
        [(3, ALTERED), (4, REMOVED)],
    ),
    "a field given twice": (
        lambda lines: [*lines[:3], '{"key_id": "x", ' + lines[3][1:], *lines[4:]],
        [(4, REMOVED)],
    ),
    "an altered number": (
        lambda lines: [*lines[:3], altered(lines[3], seq=9**9), *lines[4:]],
        [(3, ALTERED), (4, REMOVED)],
    ),
    "an altered first line": (
        lambda lines: [altered(lines[0], timestamp="x"), *lines[1:]],
        [(0, ALTERED)],
    ),
    "a line turned into another logger's": (
        lambda lines: [*lines[:3], altered(lines[3], logger="x"), *lines[4:]],
        [(4, REMOVED)],
    ),
    "a hostile chain name": (
        lambda lines: [*lines, altered(lines[3], chain="\x1b[2J\n")],
        [(10, ALTERED)],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("key", [None, SECRET], ids=["plain", "with a secret"])
def test_damage_is_found_at_its_line(name: str, key: bytes | None) -> None:
    damage, expected = DAMAGE[name]
    lines = chain_of(8, key)
    assert len(lines) == 10
    assert problems(damage(lines), key) == expected


REPLACED = "reordered or replaced before it"


def test_who_rehashes_a_record_must_rehash_all_and_cannot_without_the_secret() -> None:
    lines = chain_of(8)
    forged = [*lines[:3], rehashed(lines[3], key_id="x"), *lines[4:]]
    assert problems(forged) == [(4, REPLACED)]
    lines = chain_of(8, SECRET)
    forged = [*lines[:3], rehashed(lines[3], key_id="x"), *lines[4:]]
    assert problems(forged, SECRET) == [(3, ALTERED), (4, REPLACED)]


@pytest.mark.parametrize("depth", [500, 900, 990, 1000, 3000, 100_000])
def test_deep_nesting_does_not_end_the_check(depth: int) -> None:
    lines = chain_of(1)
    nested = lines[1][:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
    assert problems([*lines, nested]) in ([], [(3, ALTERED)])


@given(st.data())
def test_any_change_of_a_character_is_found(data: st.DataObject) -> None:
    lines = chain_of(3)
    number = data.draw(st.integers(0, 3))
    place = data.draw(st.integers(0, len(lines[number]) - 1))
    character = data.draw(st.characters(codec="ascii", exclude_characters="\n\r"))
    changed = lines[number][:place] + character + lines[number][place + 1 :]
    try:
        same = json.loads(changed) == json.loads(lines[number])
    except ValueError:
        same = False
    found = problems([*lines[:number], changed, *lines[number + 1 :]])
    assert bool(found) == (not same)


def test_a_restart_goes_on_from_the_record_before() -> None:
    first = chain_of(2)
    second = chain_of(2, previous=last_hash(first))
    third = chain_of(2, previous=last_hash(second))
    assert problems(first + second + third) == []
    # A whole process removed, the end of one, and one put in twice.
    assert problems(first + third) == [(4, REMOVED)]
    assert problems(first[:-1] + second) == [(3, REMOVED)]
    assert problems(first + second + chain_of(1, previous=last_hash(first))) == [(8, "repeated")]


OTHER, ANEW = "no audit record", "begins anew"


@pytest.mark.parametrize("place", [0, 4, 9])
def test_strict_finds_a_line_that_is_no_record_any_more(place: int) -> None:
    lines = chain_of(8)
    for other in (altered(lines[place], logger="x"), lines[place][:40], ""):
        damaged = [*lines[:place], other, *lines[place + 1 :]]
        after = [] if place == 9 else [(place + 1, REMOVED)]
        assert problems(damaged) == after
        assert problems(damaged, strict=True) == [(place, OTHER), *after]


def test_strict_finds_a_chain_that_does_not_go_on_from_what_was_before() -> None:
    first, second = chain_of(2), chain_of(2)
    assert problems(first + second) == []
    assert problems(first + second, strict=True) == [(4, ANEW)]
    # So is one that goes on from a record which is there no more.
    linked = chain_of(2, previous=last_hash(first))
    assert problems(first + linked, strict=True) == []
    assert problems(first[:-1] + linked, strict=True) == [(3, REMOVED)]


def test_chains_of_several_replicas_may_be_mixed() -> None:
    one, two = chain_of(4), chain_of(4)
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    assert problems(mixed) == []
    del mixed[4]
    assert problems(mixed) == [(5, REMOVED)]


def test_a_chain_without_the_secret_does_not_pass_for_one_with_it() -> None:
    made_with, made_without = chain_of(2, SECRET), chain_of(2)
    assert {text for _, text in problems(made_without, SECRET)} == {
        "made without the secret that was given"
    }
    assert {text for _, text in problems(made_with)} == {
        "made with a secret; give its file with --hmac-key-file"
    }
    assert {text for _, text in problems(made_with, SECRET[::-1])} == {ALTERED}


def test_the_command_answers_by_its_exit_code(tmp_path: Path, capsys: Output) -> None:
    lines = chain_of(8, SECRET)
    one, two, key = tmp_path / "audit.1", tmp_path / "audit", tmp_path / "secret"
    key.write_bytes(SECRET + b"\n")
    one.write_text("".join(line + "\n" for line in lines[:5]))
    two.write_text("".join(line + "\n" for line in lines[5:]))
    verify = ["audit", "verify", "--hmac-key-file", str(key)]
    assert main([*verify, str(one), str(two)]) == 0
    captured = capsys.readouterr().out
    assert "ok: 10 records" in captured
    assert f"last hash {last_hash(lines)}, ended" in captured
    # A file that was cut at its end verifies; what it says about the end does not.
    assert main([*verify, str(one)]) == 0
    assert "not ended" in capsys.readouterr().out
    assert main([*verify, str(two)]) == 1
    assert f"{two}:1: removed before it" in capsys.readouterr().err
    assert main([*verify, str(tmp_path / "none")]) == 2
    key.write_bytes(b"short")
    assert main([*verify, str(one)]) == 2
    key.write_bytes(SECRET)
    one.write_text("{}\n")
    assert main([*verify, str(one)]) == 2
    assert SECRET.decode() not in capsys.readouterr().err


def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    chain = Chain()
    with path.open("w") as file:
        file.write(chain.link({"message": STARTED}) + "\n")
        for number in range(3000):
            file.write(chain.link({"message": "inference", "pictures": [f"{number:064}"]}) + "\n")
        file.write("x" * 20_000_000)
    verifier = Verifier()
    tracemalloc.start()
    with path.open("rb") as file_:
        assert verifier.read(lines_of(file_), "log")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (verifier.report.records, verifier.report.problems) == (3001, [])
    assert peak < 5_000_000 < path.stat().st_size
