"""Audit records that each carry the hash of the one before.

A record is one JSON object on one line. `chain` names the process that wrote it, `seq` counts from
0, `previous` is the hash of the record before (null where there is none), and `hash` covers all
other fields, whatever their order and spacing: SHA-256, or with a secret HMAC-SHA-256, of the
record as JSON with sorted keys, without spaces, in ASCII.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from predictor.errors import SettingsError

LOGGER: Final = "realfake.audit"
"""Marks audit records among other lines of a log."""
STARTED: Final = "chain started"
ENDED: Final = "chain ended"
PLAIN: Final = "sha256"
KEYED: Final = "hmac-sha256"
MIN_KEY_BYTES: Final = 32


class Chain:
    """Links records one after the other. Not safe to share between threads.

    Args:
        key: the secret of HMAC; None for a hash that anybody can compute.
        previous: the hash at which an earlier chain in the same file ended.
    """

    def __init__(self, key: bytes | None = None, previous: str | None = None) -> None:
        self.identity = secrets.token_hex(16)
        self._key = key
        self._previous = previous
        self._seq = 0

    @property
    def algorithm(self) -> str:
        return PLAIN if self._key is None else KEYED

    def link(self, fields: Mapping[str, Any]) -> str:
        """Return a record's line, without the newline. The fields must be JSON, without floats."""
        record = {
            **fields,
            "logger": LOGGER,
            "chain": self.identity,
            "seq": self._seq,
            "previous": self._previous,
        }
        digest = digest_of(record, self._key)
        self._previous = digest
        self._seq += 1
        return json.dumps({**record, "hash": digest})


def digest_of(record: Mapping[str, Any], key: bytes | None) -> str:
    """The hash in hex of a record without its `hash`."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")
    if key is None:
        return hashlib.sha256(text).hexdigest()
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def parse(line: str | bytes) -> dict[str, Any] | None:
    """An audit record, or None for any other line.

    A name given twice makes it another line: readers would differ on which value counts.
    """
    try:
        record = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("logger") != LOGGER:
        return None
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name is given twice")
    return record


def _refuse(constant: str) -> None:
    raise ValueError("not JSON")


def read_key(file: Path | None, setting: str) -> bytes | None:
    """The secret of HMAC, as it is in its file less the newline at its end.

    Raises:
        SettingsError: it cannot be read, or is too short to be one.
    """
    if file is None:
        return None
    try:
        key = file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {file}: {error.strerror}") from None
    if len(key) < MIN_KEY_BYTES:
        raise SettingsError(
            f"{setting}: {file} holds less than {MIN_KEY_BYTES} bytes; "
            "make one: openssl rand -hex 32"
        )
    return key
