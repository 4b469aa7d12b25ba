"""API keys: what may be one, where it is found, and that it is never repeated."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from predictor.errors import InvalidRequest, RealFakeError, SettingsError, Unauthenticated
from predictor.security.api_keys import (
    MAX_LENGTH,
    ApiKeys,
    digest_of,
    extract,
    generate,
    is_well_formed,
    store,
)

KEY = "rf_b3JkaW5hcnkta2V5LW9mLWEtdGVzdA"
OTHER = "another-Key_of-24-Characters"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)
    return directory


def test_a_key_is_known_by_its_file(directory: Path) -> None:
    keys = ApiKeys.from_directory(write(directory, web=f"{KEY}\n", batch=OTHER))
    assert keys.verify(KEY.encode()) == "web"
    assert keys.verify(OTHER.encode()) == "batch"
    assert keys.verify(b"") is None
    assert keys.verify(KEY.encode() + b"x") is None
    assert keys.verify(KEY.encode() + b"\n") is None
    assert keys.verify(KEY.lower().encode()) is None
    assert sorted(keys.ids) == ["batch", "web"]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_digest_stands_in_for_the_key(directory: Path, end: str) -> None:
    keys = ApiKeys.from_directory(write(directory, web=f"sha256:{digest_of(KEY)}{end}"))
    assert keys.verify(KEY.encode()) == "web"
    assert keys.verify(digest_of(KEY).encode()) is None


def test_a_mounted_secret_is_read_as_the_kubelet_lays_it_out(directory: Path) -> None:
    version = directory / "..2026_01_01"
    version.mkdir(parents=True)
    (version / "web").write_text(KEY)
    (directory / "..data").symlink_to(version.name)
    (directory / "web").symlink_to("..data/web")
    assert ApiKeys.from_directory(directory).ids == ("web",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "shorter than 24"),
        ("\n", "shorter than 24"),
        (KEY[:23], "shorter than 24"),
        ("k" * 24, "placeholder"),
        ("changeme" + KEY, "placeholder"),
        ("REPLACE-ME" + KEY, "placeholder"),
        ("<put your key of 24 here>", "without spaces"),
        ("<put-your-key-of-24-here>", "placeholder"),
        (KEY + "\n\n", "printable"),
        (KEY + " ", "without spaces"),
        (KEY + "é", "printable ASCII"),
        ("k3Y" * 200, "longer than"),
        ("sha256:abc", "64 hexadecimal"),
        ("sha256:" + "g" * 64, "64 hexadecimal"),
    ],
)
def test_an_unusable_key_stops_the_start(directory: Path, content: str, reason: str) -> None:
    write(directory, web=content, good=OTHER)
    with pytest.raises(SettingsError, match=reason) as refused:
        ApiKeys.from_directory(directory)
    assert str(directory / "web") in refused.value.message
    assert "good" not in refused.value.message
    if content.strip():
        assert content.strip() not in refused.value.message


def test_every_unusable_key_is_named(directory: Path) -> None:
    write(directory, a="short", b=f"{KEY}\n", c=KEY)
    (directory / "white space").write_text(OTHER)
    with pytest.raises(SettingsError) as refused:
        ApiKeys.from_directory(directory)
    lines = refused.value.message.splitlines()[1:]
    assert [line.split(": ")[1].rpartition("/")[2] for line in lines] == ["a", "c", "white space"]
    assert "the same key as b" in lines[1]


@pytest.mark.parametrize("state", ["missing", "file", "empty", "folders only"])
def test_no_keys_is_no_service(directory: Path, state: str) -> None:
    if state == "file":
        directory.write_text(KEY)
    elif state != "missing":
        directory.mkdir()
    if state == "folders only":
        (directory / "folder").mkdir()
    with pytest.raises(SettingsError, match=r"auth\.keys_dir") as refused:
        ApiKeys.from_directory(directory)
    assert refused.value.exit_code == 2


def test_generated_keys_are_usable_and_differ(directory: Path) -> None:
    made = {generate() for _ in range(50)}
    assert len(made) == 50
    for key in made:
        assert is_well_formed(key)
        digest_of(key)
    first = made.pop()
    assert not is_well_formed(first[:-1])
    assert not is_well_formed(first[:10] + ("A" if first[10] != "A" else "B") + first[11:])
    assert not is_well_formed("other" + first)


def test_a_stored_key_is_its_owners_alone(directory: Path) -> None:
    path = store(KEY, directory, "web")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert ApiKeys.from_directory(directory).verify(KEY.encode()) == "web"
    with pytest.raises(SettingsError, match="exists"):
        store(OTHER, directory, "web")
    with pytest.raises(SettingsError, match="id"):
        store(OTHER, directory, "../web")


Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"k1")],
        [(b"X-API-Key", b" k1\t")],
        [(b"authorization", b"Bearer k1")],
        [(b"Authorization", b"bearer  k1 ")],
        [(b"authorization", b"Bearer k1"), (b"x-api-key", b"k1")],
        [(b"authorization", b"Basic dTpw"), (b"x-api-key", b"k1")],
        [(b"accept", b"*/*"), (b"x-api-key", b"k1"), (b"cookie", b"k2")],
    ],
)
def test_a_key_is_found(headers: Headers) -> None:
    assert extract(headers) == b"k1"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], Unauthenticated),
        ([(b"cookie", b"k1")], Unauthenticated),
        ([(b"authorization", b"Basic dTpw")], Unauthenticated),
        ([(b"authorization", b"k1")], Unauthenticated),
        ([(b"authorization", b"Bearer")], Unauthenticated),
        ([(b"authorization", b"Bearer a b")], Unauthenticated),
        ([(b"x-api-key", b"")], Unauthenticated),
        ([(b"x-api-key", b"k\x001")], Unauthenticated),
        ([(b"x-api-key", "schlüssel".encode())], Unauthenticated),
        ([(b"x-api-key", b"k" * (MAX_LENGTH + 1))], Unauthenticated),
        ([(b"x-api-key", b"k1"), (b"X-Api-Key", b"k1")], InvalidRequest),
        ([(b"authorization", b"Bearer k1"), (b"authorization", b"Bearer k1")], InvalidRequest),
        ([(b"authorization", b"Bearer k1"), (b"x-api-key", b"k2")], InvalidRequest),
    ],
)
def test_a_doubtful_key_is_refused_without_repeating_it(
    headers: Headers, error: type[RealFakeError]
) -> None:
    with pytest.raises(error) as refused:
        extract(headers)
    assert "k1" not in refused.value.message
    assert "k2" not in refused.value.message
