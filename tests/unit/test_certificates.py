"""TLS files: what stops the start, and which pair is in force after each change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from predictor.errors import SettingsError
from predictor.security.certificates import CertificateStore
from tests.certificates import Authority, Pair
from tests.mounted_secret import MountedSecret

Files = dict[str, str | bytes]

AUTHORITY = Authority()
PAIR, NEXT = AUTHORITY.issue("first"), AUTHORITY.issue("second")


def files(pair: Pair, ca: bytes = AUTHORITY.pem) -> Files:
    return {"tls.crt": pair.chain, "tls.key": pair.key, "ca.crt": ca}


def store(path: Path) -> CertificateStore:
    return CertificateStore(path / "tls.crt", path / "tls.key", path / "ca.crt")


def encrypted(key: bytes) -> bytes:
    password = BestAvailableEncryption(b"passphrase")
    private = load_pem_private_key(key, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password)


def without(name: str) -> Files:
    return {other: content for other, content in files(PAIR).items() if other != name}


BAD: dict[str, tuple[Callable[[], Files], str, str]] = {
    "no certificate": (lambda: without("tls.crt"), "tls.cert_file", "No such file"),
    "no key": (lambda: without("tls.key"), "tls.key_file", "No such file"),
    "no authority": (lambda: without("ca.crt"), "tls.client_ca_file", "No such file"),
    "another's key": (
        lambda: files(Pair(PAIR.chain, NEXT.key)),
        "tls.key_file",
        "KEY_VALUES_MISMATCH",
    ),
    "key is text": (lambda: files(Pair(PAIR.chain, b"secret")), "tls.key_file", "do not make"),
    "certificate is empty": (lambda: files(Pair(b"", PAIR.key)), "tls.cert_file", "no PEM"),
    "certificate is a key": (lambda: files(Pair(PAIR.key, PAIR.key)), "tls.cert_file", "no PEM"),
    "authority is text": (lambda: files(PAIR, b"authority"), "tls.client_ca_file", "no PEM"),
    "encrypted key": (
        lambda: files(Pair(PAIR.chain, encrypted(PAIR.key))),
        "tls.key_file",
        "is encrypted",
    ),
    "Ed25519": (
        lambda: files(AUTHORITY.issue(key=ed25519.Ed25519PrivateKey.generate())),
        "tls.cert_file",
        "gRPC cannot use",
    ),
    "P-521": (
        lambda: files(AUTHORITY.issue(key=ec.generate_private_key(ec.SECP521R1()))),
        "tls.cert_file",
        "gRPC cannot use",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_make_no_tls_stop_the_start(name: str, tmp_path: Path) -> None:
    make, setting, reason = BAD[name]
    MountedSecret(tmp_path / "tls", make())
    with pytest.raises(SettingsError, match=reason) as refused:
        store(tmp_path / "tls")
    assert refused.value.message.startswith(f"{setting}: ")
    assert "secret" not in refused.value.message.replace(str(tmp_path), "")


@pytest.mark.parametrize("name", BAD)
def test_the_same_files_as_an_update_change_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "predictor.security")
    secret = MountedSecret(tmp_path / "tls", files(PAIR))
    subject = store(secret.path)
    before = subject.value
    secret.publish(BAD[name][0]())
    subject.poll()
    subject.poll()
    assert subject.value is before
    assert subject.state.failures == 2
    secret.publish(files(NEXT))
    subject.poll()
    assert subject.value.chain == NEXT.chain
    assert [record.message for record in caplog.records] == [
        "cannot reload; the last good version stays in use",
        "reloading works again",
        "TLS certificate changed",
    ]


def test_a_swap_in_the_middle_of_reading_never_makes_a_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = MountedSecret(tmp_path / "tls", files(PAIR))
    subject = store(secret.path)
    secret.publish(files(AUTHORITY.issue()))
    read = Path.read_bytes

    def read_then_swap(path: Path) -> bytes:
        content = read(path)
        if path.name == "tls.crt":
            monkeypatch.undo()
            secret.publish(files(NEXT))
        return content

    monkeypatch.setattr(Path, "read_bytes", read_then_swap)
    subject.poll()
    assert (subject.value.chain, subject.value.key) == (NEXT.chain, NEXT.key)
    assert subject.state.failures == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_expired_certificate_is_served_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expired = AUTHORITY.issue(lifetime=timedelta(hours=-1))
    MountedSecret(tmp_path / "tls", files(expired))
    subject = store(tmp_path / "tls")
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert vars(record)["not_after"] == subject.value.not_after.isoformat()
