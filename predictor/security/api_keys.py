"""Who is asking: API keys, made, found in a request and verified.

Only digests stay in memory. Nothing here ever puts a key into a message.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, Protocol

from predictor.errors import InvalidRequest, Unauthenticated

PREFIX: Final = "rf_"
MIN_LENGTH: Final = 24
MAX_LENGTH: Final = 512
_MIN_DISTINCT: Final = 8
"""Characters, and steps from one to the next: less is repetition, or counting."""

_RANDOM_BYTES: Final = 32
_PRINTABLE: Final = re.compile(rb"[\x21-\x7e]+")
_PLACEHOLDER: Final = re.compile(
    r"change[-_ ]?me|replace[-_ ]?me|placeholder|example|your[-_ ]?(?:api[-_ ]?)?key|x{8}|<.*>"
    # Words that a tenant or an app may be called too, in front of what is random.
    r"|^(?!.*(?:[a-z0-9+/]{16}|[0-9a-f]{8}-[0-9a-f]{4}-))"
    r".*(?<![a-z0-9])(?:default|dummy|insert|replace|todo|your)(?![a-z0-9])"
    r"|\$\{\w.*\}|\{\{.*\}\}",
    re.IGNORECASE,
)
_DIGEST: Final = re.compile(r"\W*sha[-_]?\d{3}", re.IGNORECASE)
"""How a digest begins, as tools write it. Taken for a key, it would open what it is to lock."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key a caller may hold, known by its digest.

    Attributes:
        id: whose it is; logs and metrics may show it.
        digest: SHA-256 of the key, 32 bytes.
        generation: tells keys of one id apart while they overlap; empty when there is no need.
        expires: from then on it is refused.
    """

    id: str
    digest: bytes = field(repr=False)
    generation: str = ""
    expires: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.id}.{self.generation}" if self.generation else self.id

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires


class Verifier(Protocol):
    def verify(self, presented: bytes) -> Key:
        """Return the key that was presented.

        Raises:
            Unauthenticated: not known here, or expired.
        """


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """An immutable set of keys; a rotation makes another one."""

    keys: tuple[Key, ...]

    def find(self, presented: bytes) -> Key | None:
        """Return the key, expired or not, or None.

        Every key is compared, whatever matches, so the time says nothing about which.
        """
        digest = hashlib.sha256(presented).digest()
        found: Key | None = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def verify(self, presented: bytes) -> Key:
        key = self.find(presented)
        if key is None:
            raise Unauthenticated("the API key is not valid here")
        if key.has_expired:
            raise Unauthenticated("the API key has expired; use a newer one")
        return key


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
    if _DIGEST.match(key):
        raise ValueError("looks like a digest, which is `sha256:` and 64 hexadecimal digits")
    if key.startswith(PREFIX):
        if not is_well_formed(key):
            raise ValueError("its checksum is wrong: cut or mistyped in copying")
    elif _PLACEHOLDER.search(key) or _is_regular(key):
        raise ValueError("looks like a placeholder; make a key: python -m predictor keys new")
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def _is_regular(key: str) -> bool:
    steps = {ord(after) - ord(before) for before, after in pairwise(key)}
    return min(len(set(key)), len(steps)) < _MIN_DISTINCT


def generate() -> str:
    """Make a key: `rf_`, 256 random bits, and a checksum that secret scanners can verify."""
    body = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode("ascii").rstrip("=")
    return f"{PREFIX}{body}{_checksum(body)}"


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
