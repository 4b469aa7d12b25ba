"""Who is asking: API keys from a mounted Secret, found in a request and verified.

Only digests stay in memory. Nothing here ever puts a key into a message.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from predictor.errors import InvalidRequest, SettingsError, Unauthenticated

PREFIX: Final = "rf_"
MIN_LENGTH: Final = 24
MAX_LENGTH: Final = 512
_MIN_DISTINCT: Final = 8

_RANDOM_BYTES: Final = 32
_DIGEST_MARK: Final = "sha256:"
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PRINTABLE: Final = re.compile(rb"[\x21-\x7e]+")
_PLACEHOLDER: Final = re.compile(
    r"change[-_ ]?me|replace[-_ ]?me|placeholder|example|your[-_ ]?(?:api[-_ ]?)?key|x{8}|<.*>",
    re.IGNORECASE,
)


class ApiKeys:
    """A set of keys, each with the id that logs and metrics may show."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        """Hold keys by their ids, each as the SHA-256 of the key (32 bytes)."""
        self._digests = dict(digests)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._digests)

    @classmethod
    def from_directory(cls, path: Path) -> ApiKeys:
        """Read one key per file, as Kubernetes mounts a Secret: file name = key id.

        Raises:
            SettingsError: Unreadable or empty directory, or a file that holds no usable key;
                names every such file, never its content.
        """
        try:
            # `..data` and its kin are how the kubelet swaps versions of a Secret.
            files = sorted(
                entry
                for entry in path.iterdir()
                if not entry.name.startswith("..") and entry.is_file()
            )
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
        digests: dict[str, bytes] = {}
        problems: list[str] = []
        for file in files:
            try:
                digest = _read(file)
                _refuse_duplicate(digest, digests)
                digests[file.name] = digest
            except ValueError as error:
                problems.append(f"auth.keys_dir: {file}: {error}")
        if problems:
            raise SettingsError("\n  ".join(["these API keys cannot be used:", *problems]))
        return cls(digests)

    def verify(self, presented: bytes) -> str | None:
        """Return the id of the key, or None.

        Every key is compared, whatever matches, so the time says nothing about which.
        """
        digest = hashlib.sha256(presented).digest()
        found: str | None = None
        for key_id, expected in self._digests.items():
            if hmac.compare_digest(digest, expected):
                found = key_id
        return found


def _read(file: Path) -> bytes:
    """SHA-256 of the key in a file. Raises ValueError with what is wrong with it."""
    if not _KEY_ID.fullmatch(file.name):
        raise ValueError("the file's name is the key's id: letters, digits, '.', '_' and '-'")
    try:
        text = file.read_bytes().removesuffix(b"\n").removesuffix(b"\r").decode("ascii")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("must be printable ASCII") from None
    if text.startswith(_DIGEST_MARK):
        digest = text.removeprefix(_DIGEST_MARK).lower()
        if not _HEX_DIGEST.fullmatch(digest):
            raise ValueError("sha256: must be followed by 64 hexadecimal digits")
        return bytes.fromhex(digest)
    return bytes.fromhex(digest_of(text))


def _refuse_duplicate(digest: bytes, known: Mapping[str, bytes]) -> None:
    for key_id, other in known.items():
        if hmac.compare_digest(digest, other):
            raise ValueError(f"holds the same key as {key_id}; give each caller its own")


def digest_of(key: str) -> str:
    """SHA-256 in hex of a key fit for use. Raises ValueError with what is wrong with it."""
    if len(key) < MIN_LENGTH:
        raise ValueError(
            f"shorter than {MIN_LENGTH} characters; make one: python -m predictor keys new"
        )
    if len(key) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    if not key.isascii() or not _PRINTABLE.fullmatch(key.encode("ascii")):
        raise ValueError("must be printable ASCII without spaces")
    if _PLACEHOLDER.search(key) or len(set(key)) < _MIN_DISTINCT:
        raise ValueError("looks like a placeholder; make a key: python -m predictor keys new")
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def generate() -> str:
    """Make a key: `rf_`, 256 random bits, and a checksum that secret scanners can verify."""
    body = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode("ascii").rstrip("=")
    return f"{PREFIX}{body}{_checksum(body)}"


def store(key: str, directory: Path, key_id: str) -> Path:
    """Write a key where `ApiKeys.from_directory` finds it, readable by its owner only.

    Raises:
        SettingsError: The id is no file name for a key, or the file exists or cannot be written.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise SettingsError("a key's id is letters, digits, '.', '_' and '-', at most 63")
    path = directory / key_id
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key + "\n")
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None
    return path


def is_well_formed(key: str) -> bool:
    """Whether `generate` could have made this key: catches a key cut or mistyped in copying."""
    if not key.startswith(PREFIX):
        return False
    body, checksum = key.removeprefix(PREFIX)[:-8], key[-8:]
    return hmac.compare_digest(_checksum(body).encode(), checksum.encode("utf-8", "replace"))


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('utf-8', 'replace')):08x}"


def extract(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Find the presented key among HTTP headers or gRPC metadata.

    Args:
        headers: Names in any case, with values as they came over the wire.

    Raises:
        Unauthenticated: No key, or a value that cannot be one.
        InvalidRequest: Several keys that differ, or one header given twice.
    """
    direct: list[bytes] = []
    bearer: list[bytes] = []
    for name, value in headers:
        match name.lower():
            case b"x-api-key":
                direct.append(value.strip(b" \t"))
            case b"authorization":
                scheme, _, token = value.strip(b" \t").partition(b" ")
                # Another scheme is for somebody else on the way here, such as a gateway.
                if scheme.lower() == b"bearer":
                    bearer.append(token.strip(b" \t"))
    if len(direct) > 1 or len(bearer) > 1:
        raise InvalidRequest("send the API key once: a header that carries it is repeated")
    candidates = direct + bearer
    if not candidates:
        raise Unauthenticated("an API key is required: send X-API-Key, or Authorization: Bearer")
    for candidate in candidates:
        if len(candidate) > MAX_LENGTH or not _PRINTABLE.fullmatch(candidate):
            raise Unauthenticated("the API key is not valid")
    if len(candidates) == 2 and not hmac.compare_digest(*candidates):
        raise InvalidRequest("X-API-Key and Authorization carry different API keys; send one")
    return candidates[0]
