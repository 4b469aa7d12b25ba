"""API keys: what may be one, where a request carries it, and that it is never repeated."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from predictor.errors import InvalidRequest, RealFakeError, Unauthenticated
from predictor.security.api_keys import (
    MAX_LENGTH,
    ApiKeys,
    Key,
    digest_of,
    extract,
    generate,
    is_well_formed,
)

KEY = b"rf_b3JkaW5hcnkta2V5LW9mLWEtdGVzdA792d5e55"


def keys(expires: datetime | None) -> ApiKeys:
    return ApiKeys((Key("web", hashlib.sha256(KEY).digest(), expires=expires),))


@pytest.mark.parametrize("expires", [None, datetime.now(UTC) + timedelta(days=1)])
def test_a_live_key_is_known(expires: datetime | None) -> None:
    assert keys(expires).verify(KEY).id == "web"


def test_a_key_ends_at_its_time() -> None:
    with pytest.raises(Unauthenticated, match="expired"):
        keys(datetime.now(UTC)).verify(KEY)


@pytest.mark.parametrize("presented", [b"", KEY + b"x", KEY + b"\n", KEY[:-1], KEY.lower()])
def test_what_is_nearly_a_key_is_none(presented: bytes) -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        keys(None).verify(presented)


def test_a_key_does_not_show_in_what_is_printed() -> None:
    assert hashlib.sha256(KEY).hexdigest() not in repr(keys(None))
    assert str(hashlib.sha256(KEY).digest()) not in repr(keys(None))


def test_generated_keys_are_usable_and_differ() -> None:
    made = {generate() for _ in range(50)}
    assert len(made) == 50
    for key in made:
        assert is_well_formed(key)
        digest_of(key)
    first = made.pop()
    assert not is_well_formed(first[:-1])
    assert not is_well_formed(first[:10] + ("A" if first[10] != "A" else "B") + first[11:])
    assert not is_well_formed("other" + first)


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
