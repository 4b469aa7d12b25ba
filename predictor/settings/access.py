"""Who may ask, how much, and what is written down of it. See `groups.py` for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from predictor.settings.group import Group
from predictor.settings.pairs import Pairs

Rate = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,4}/([1-9][0-9]{0,2})?(second|minute|hour|day)$",
        examples=["600/minute", "50/10second"],
    ),
]


class TlsSettings(Group):
    """Encryption of both ports; off until a certificate is named, as a gateway usually does it."""

    cert_file: Path | None = Field(
        None,
        description="PEM file with the server's certificate and its issuers. Set, both ports speak "
        "TLS 1.2 or later and nothing else. A new file is in force within 5 seconds.",
    )
    key_file: Path | None = Field(
        None, description="PEM file with the certificate's key, not encrypted."
    )
    client_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities whose client certificates are let in. Set, "
        "every other connection is refused, the kubelet's probes too: give them "
        "`server.health_port`.",
    )


class AuthSettings(Group):
    """Who may ask."""

    mode: Literal["api_key", "none"] = Field(
        "api_key",
        description="`api_key` refuses inference without a key from `auth.keys_dir`; `none` "
        "answers everybody who can reach the ports.",
    )
    keys_dir: Path | None = Field(
        None,
        description="Directory with one file per API key, as a mounted Secret has it: the file's "
        "name is the key's id, or ID.N for another key of the same id; its content the key or "
        "`sha256:` and its digest in hex. A change is in force within 5 seconds.",
    )


class RateLimitSettings(Group):
    """How many pictures each API key may send in a time. Off until a rate is given."""

    rate: Rate | None = Field(
        None,
        examples=["600/minute", "50/10second"],
        description="Pictures that each key may send in any stretch of this length; the request "
        "that would go over is RATE_LIMITED whole, with the time to wait. Not set, only the keys "
        "in `rate_limit.rates` are limited. With `auth.mode` `none` all callers share one limit.",
    )
    rates: Pairs[Rate] = Field(
        {},
        description="Other rates by key id, such as `web=6000/minute,batch=100/second`.",
    )
    redis_url_file: Path | None = Field(
        None,
        description="File with the URL of a Redis, `redis://` or `rediss://`, that all replicas "
        "count in; its password never leaves the file. Not set, each replica counts alone, and a "
        "caller may send the rate to each of them.",
    )
    store_timeout_ms: int = Field(
        500,
        ge=1,
        le=10_000,
        description="Milliseconds to wait for the Redis before it counts as failed and is left "
        "alone for a second. Requests on their way then are late by as much; too short, and a "
        "busy moment counts as a failure.",
    )
    on_store_failure: Literal["open", "closed"] = Field(
        "open",
        description="While the Redis fails, `open` serves without limits, and `closed` refuses "
        "inference with NOT_READY. Both say so in the log.",
    )


class AuditSettings(Group):
    """Who asked what, and what was answered, in records chained by hash."""

    destination: Literal["off", "stdout", "file"] = Field(
        "off",
        description="`stdout` mixes the records with the log (logger `realfake.audit`), `file` "
        "appends them to `audit.file`. Off, pictures are not hashed either.",
    )
    file: Path | None = Field(
        None,
        description="File to append to. One that cannot be written, that another process writes, "
        "or that ends in something else stops the start.",
    )
    on_failure: Literal["open", "closed"] = Field(
        "closed",
        description="While records cannot be written, `closed` answers not-ready and refuses "
        "inference, so that nothing goes unrecorded; `open` goes on, and counts what it had to "
        "drop in a record of its own.",
    )
    hmac_key_file: Path | None = Field(
        None,
        description="File with a secret of at least 32 bytes. With it only its holders can make "
        "a record that verifies; without it, whoever can write the file can rewrite all of it.",
    )
