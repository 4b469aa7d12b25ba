"""API keys as files: names, content, and what stops the start."""

from __future__ import annotations

import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from predictor.errors import SettingsError
from predictor.security.api_keys import digest_of
from predictor.security.key_files import format_file, parse_time, read_directory, store
from tests.mounted_secret import MountedSecret

KEY = "rf_b3JkaW5hcnkta2V5LW9mLWEtdGVzdA792d5e55"
OTHER = "another-Key_of-24-Characters"
THIRD = "rf_bm9jaC1laW4tU2NobMO8c3NlbAfef3d10a"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(content)
    return directory


def test_a_key_is_known_by_its_file(directory: Path) -> None:
    keys = read_directory(write(directory, web=f"{KEY}\n", batch=OTHER))
    assert keys.verify(KEY.encode()).id == "web"
    assert keys.verify(OTHER.encode()).id == "batch"


@pytest.mark.parametrize(
    ("name", "key_id", "generation"),
    [
        ("web", "web", ""),
        ("web.2", "web", "2"),
        ("web.20270131", "web", "20270131"),
        ("team.web", "team.web", ""),
        ("team.web.2", "team.web", "2"),
        ("v1.2.3", "v1.2", "3"),
        ("v1.2a", "v1.2a", ""),
        ("7", "7", ""),
    ],
)
def test_a_last_dot_and_digits_are_the_generation(
    name: str, key_id: str, generation: str, directory: Path
) -> None:
    key = read_directory(write(directory, **{name: KEY})).verify(KEY.encode())
    assert (key.id, key.generation, key.name) == (key_id, generation, name)


def test_keys_of_one_id_live_side_by_side(directory: Path) -> None:
    keys = read_directory(write(directory, **{"web": KEY, "web.2": OTHER, "web.3": THIRD}))
    assert {keys.verify(key.encode()).id for key in (KEY, OTHER, THIRD)} == {"web"}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31T00:00:00Z", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T01:30:00+01:30", datetime(2027, 1, 31, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_second_line_says_when_a_key_ends(
    text: str, moment: datetime, line_end: str, directory: Path
) -> None:
    write(directory, web=f"{KEY}{line_end}expires: {text}{line_end}")
    assert read_directory(directory).keys[0].expires == moment


def test_what_is_written_is_what_is_read(directory: Path) -> None:
    expires = parse_time("2027-01-31T00:00:00Z")
    write(directory, web=format_file(f"sha256:{digest_of(KEY)}", expires))
    store(OTHER, directory, "web.2", expires)
    keys = read_directory(directory).keys
    assert [(key.name, key.expires) for key in keys] == [("web", expires), ("web.2", expires)]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("mark", ["sha256:", "SHA256:", "Sha256:"])
def test_a_digest_stands_in_for_the_key(directory: Path, mark: str, end: str) -> None:
    text = f"{mark}{digest_of(KEY)}"
    keys = read_directory(write(directory, web=f"{text}{end}"))
    assert keys.verify(KEY.encode()).id == "web"
    for presented in (text, digest_of(KEY)):
        assert keys.find(presented.encode()) is None


@pytest.mark.parametrize(
    "key",
    [
        "7f3a0c5e9b1d48266a4e8c2f0b7d9153e6a1c4f80d2b59377c6e1f4a8b0d3592",
        "508213974466019283754210",
        "Tz3+oG/7q1Xv0mJ9sYw5KbR2uEc8HdLf6NnPaViZx4M=",
        "2d1f6c1e-98b7-4f0a-a3c5-7be0d4862a19",
        "mastodon-inserted-yourself-42",
        "acme-default-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
        "todo-app:q3XlyT9mE0ZfJ2vWcR7uKpA4sN1bHd6gI8oLxPyVtQw",
        "prod.default.2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d",
        "$aLt{y-key}-of-a-generator",
    ],
    ids=["hex", "digits", "base64", "uuid", "words", "tenant", "app", "dotted", "signs"],
)
def test_a_key_of_another_make_may_be_used(directory: Path, key: str) -> None:
    assert read_directory(write(directory, web=key)).verify(key.encode()).id == "web"


def test_a_mounted_secret_is_read_as_the_kubelet_lays_it_out(directory: Path) -> None:
    MountedSecret(directory, {"web": KEY})
    assert [key.name for key in read_directory(directory).keys] == ["web"]


def test_a_half_swapped_secret_is_its_new_version_already(directory: Path) -> None:
    """The kubelet renames `..data` first and tidies the links later."""
    secret = MountedSecret(directory, {"web.1": KEY, "web.2": OTHER})
    links = {name: os.readlink(directory / name) for name in ("web.1", "web.2")}
    secret.publish({"web.2": OTHER, "web.3": THIRD})
    (directory / "web.3").unlink()
    (directory / "web.1").symlink_to(links["web.1"])
    assert [key.name for key in read_directory(directory).keys] == ["web.2", "web.3"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "shorter than 24"),
        ("\n", "shorter than 24"),
        ("\nexpires: 2027-01-31T00:00:00Z", "shorter than 24"),
        (KEY[:23], "shorter than 24"),
        ("k" * 24, "placeholder"),
        ("changeme" + KEY, "placeholder"),
        ("REPLACE-ME" + KEY, "placeholder"),
        ("<put your key of 24 here>", "without spaces"),
        ("<put-your-key-of-24-here>", "placeholder"),
        ("123456789012345678901234", "placeholder"),
        ("abcdefghijklmnopqrstuvwx", "placeholder"),
        ("ZYXWVUTSRQPONMLKJIHGFEDCBA", "placeholder"),
        ("abcdefgh-abcdefgh-12345678", "placeholder"),
        ("${API_KEY_FROM_ENVIRONMENT}", "placeholder"),
        ("{{.Values.auth.keys.web}}", "placeholder"),
        ("INSERT-API-KEY-HERE-PLEASE", "placeholder"),
        ("TODO-put-the-real-key-in-here", "placeholder"),
        ("replace-with-a-real-secret-1", "placeholder"),
        ("dummy_key_for_development_1", "placeholder"),
        ("the-default-key-of-all-1234", "placeholder"),
        ("your-secret-goes-here-1234", "placeholder"),
        (KEY[:-1], "checksum"),
        (KEY[:30], "checksum"),
        (KEY.swapcase().replace("RF_", "rf_"), "checksum"),
        (KEY + "\n\n", "one line, `expires: "),
        (KEY + "\n" + OTHER, "one line, `expires: "),
        (KEY + "\nexpires: 2027-01-31T00:00:00Z\n\n", "one line, `expires: "),
        (KEY + "\nexpires:2027-01-31T00:00:00Z", "one line, `expires: "),
        (KEY + "\nexpires: 2031-05-06", "must look like"),
        (KEY + "\nexpires: 2031-05-06T00:00:00", "must look like"),
        (KEY + "\nexpires: never", "must look like"),
        (KEY + "\nexpires: 2027-02-29T00:00:00Z", "calendar"),
        (KEY + "\nexpires: 0001-01-01T00:00:00+14:00", "calendar"),
        (KEY * 200, "longer than"),
        (KEY + " ", "without spaces"),
        (KEY + "é", "printable ASCII"),
        ("k3Y" * 200, "longer than"),
        ("sha256:abc", "64 hexadecimal"),
        ("sha256:" + "g" * 64, "64 hexadecimal"),
        ("SHA256: " + digest_of(KEY), "64 hexadecimal"),
        ("sha256:" + hashlib.sha256(b"").hexdigest(), "digest of nothing"),
        ("sha256:" + hashlib.sha256(b"\n").hexdigest(), "digest of nothing"),
        ("sha256=" + digest_of(KEY), "like a digest"),
        ("sha256" + digest_of(KEY), "like a digest"),
        ("SHA-256:" + digest_of(KEY), "like a digest"),
        ("'sha256:" + digest_of(KEY) + "'", "like a digest"),
        ("sha512:" + hashlib.sha512(KEY.encode()).hexdigest(), "like a digest"),
    ],
)
def test_an_unusable_key_stops_the_start(directory: Path, content: str, reason: str) -> None:
    write(directory, web=content, good=OTHER)
    with pytest.raises(SettingsError, match=reason) as refused:
        read_directory(directory)
    assert str(directory / "web") in refused.value.message
    assert "good" not in refused.value.message
    for line in content.split("\n"):
        assert not line.strip() or line.strip() not in refused.value.message


def test_every_unusable_key_is_named(directory: Path) -> None:
    write(directory, a="short", b=f"{KEY}\n", c=KEY)
    (directory / "white space").write_text(OTHER)
    with pytest.raises(SettingsError) as refused:
        read_directory(directory)
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
        read_directory(directory)
    assert refused.value.exit_code == 2


def test_a_stored_key_is_its_owners_alone(directory: Path) -> None:
    path = store(KEY, directory, "web")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert read_directory(directory).verify(KEY.encode()).id == "web"
    with pytest.raises(SettingsError, match="exists"):
        store(OTHER, directory, "web")
    with pytest.raises(SettingsError, match="id"):
        store(OTHER, directory, "../web")


@pytest.mark.parametrize("kind", ["dangling link", "pipe"])
def test_what_is_no_file_is_named_and_not_waited_for(kind: str, directory: Path) -> None:
    write(directory, web=KEY)
    if kind == "pipe":
        os.mkfifo(directory / "batch")
    else:
        (directory / "batch").symlink_to("nowhere")
    with pytest.raises(SettingsError, match="batch: is missing, or no regular file"):
        read_directory(directory)
