"""API keys as files: one directory, one file per key, as Kubernetes mounts a Secret.

The file's name is the key's id, or `ID.N` for another key of the same id: a last dot followed
by digits only is always the generation. The first line is the key or `sha256:`, in any case, and
its digest in hex; a second one, `expires: 2027-01-31T00:00:00Z`, may say when it ends.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from predictor.errors import SettingsError
from predictor.security.api_keys import ApiKeys, Key, digest_of
from predictor.security.watching import Signature, fingerprint

_MAX_BYTES: Final = 4096
_DIGEST_MARK: Final = "sha256:"
_NOTHING: Final = {hashlib.sha256(text).digest() for text in (b"", b"\n")}
"""What a script makes of a variable that is not set."""
_EXPIRES_MARK: Final = "expires: "
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62}?)(?:\.([0-9]{1,20}))?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")


def read_directory(path: Path) -> ApiKeys:
    """Read every key of a directory.

    Raises:
        SettingsError: Unreadable or empty directory, or a file that holds no usable key;
            names every such file, never its content.
    """
    try:
        files = _files(path)
    except OSError as error:
        raise SettingsError(
            f"auth.keys_dir: cannot read {path}: {error.strerror}; "
            "mount a Secret there, or set auth.mode to none"
        ) from None
    if not files:
        raise SettingsError(
            f"auth.keys_dir: no key in {path}; add a file with the output of "
            "`python -m predictor keys new`"
        )
    keys: list[Key] = []
    problems: list[str] = []
    for file in files:
        try:
            key = _read(file)
            _refuse_duplicate(key, keys)
            keys.append(key)
        except ValueError as error:
            problems.append(f"auth.keys_dir: {path / file.name}: {error}")
    if problems:
        raise SettingsError("\n  ".join(["these API keys cannot be used:", *problems]))
    return ApiKeys(tuple(keys))


def signature(path: Path) -> Signature:
    """What differs when the keys in a directory do."""
    try:
        return tuple(fingerprint(file) for file in _files(path))
    except OSError:
        return (fingerprint(path),)


def _files(path: Path) -> list[Path]:
    """The files that hold keys, of one version of the Secret. Raises OSError."""
    # The kubelet's `..data` points at the version in force. Through the links beside it, a
    # swap would be seen half done: old names, and new content behind them.
    data = path / "..data"
    if data.is_symlink():
        path = data.resolve(strict=True)
    return sorted(
        entry for entry in path.iterdir() if not entry.name.startswith("..") and not entry.is_dir()
    )


def _read(file: Path) -> Key:
    """The key in a file. Raises ValueError with what is wrong with it."""
    name = _NAME.fullmatch(file.name)
    if name is None:
        raise ValueError("the file's name is the key's id: letters, digits, '.', '_' and '-'")
    try:
        if not file.is_file():  # opening a pipe would wait for ever
            raise ValueError("is missing, or no regular file")
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"longer than {_MAX_BYTES} bytes")
    try:
        lines = content.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError("must be printable ASCII") from None
    key, *rest = (line.removesuffix("\r") for line in lines)
    digest = _parse_key(key)
    return Key(name[1], digest, name[2] or "", _parse_rest(rest))


def _parse_key(text: str) -> bytes:
    if not text.lower().startswith(_DIGEST_MARK):
        return bytes.fromhex(digest_of(text))
    hex_digest = text[len(_DIGEST_MARK) :].lower()
    if not _HEX_DIGEST.fullmatch(hex_digest):
        raise ValueError("sha256: must be followed by 64 hexadecimal digits")
    digest = bytes.fromhex(hex_digest)
    if digest in _NOTHING:
        raise ValueError("the digest of nothing; hash a key: python -m predictor keys hash")
    return digest


def _parse_rest(lines: list[str]) -> datetime | None:
    if not lines:
        return None
    if len(lines) > 1 or not lines[0].startswith(_EXPIRES_MARK):
        raise ValueError(
            "after the key there may be one line, `expires: ` and a time; there is something else"
        )
    return parse_time(lines[0].removeprefix(_EXPIRES_MARK))


def parse_time(text: str) -> datetime:
    """Read a time that means the same everywhere. Raises ValueError with what is wrong."""
    if not _TIME.fullmatch(text):
        raise ValueError("the time of expiry must look like 2027-01-31T00:00:00Z")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("the time of expiry is not in the calendar") from None


def format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def format_file(key: str, expires: datetime | None) -> str:
    """What a file with this key, or `sha256:` and its digest, holds."""
    return f"{key}\n" + (f"{_EXPIRES_MARK}{format_time(expires)}\n" if expires else "")


def _refuse_duplicate(key: Key, known: Iterable[Key]) -> None:
    for other in known:
        if hmac.compare_digest(key.digest, other.digest):
            raise ValueError(f"holds the same key as {other.name}; give each caller its own")


def store(key: str, directory: Path, name: str, expires: datetime | None = None) -> Path:
    """Write a key where `read_directory` finds it, readable by its owner only.

    Args:
        name: the key's id, or `ID.N`.

    Raises:
        SettingsError: The name is none for a key, or the file exists or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError("a key's id is letters, digits, '.', '_' and '-', at most 63")
    path = directory / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(format_file(key, expires))
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None
    return path
