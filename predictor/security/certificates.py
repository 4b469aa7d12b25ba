"""The server's TLS certificate and its key: read, checked, and followed while they change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from predictor.errors import SettingsError
from predictor.security.watching import Signature, Watched, fingerprint
from predictor.settings import TlsSettings

log = logging.getLogger("predictor.security")

_CURVES: Final = ("secp256r1", "secp384r1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """One version of the files, fit for use together.

    Attributes:
        chain: the server's certificate, then its issuers; PEM, as are the next two.
        client_ca: whose certificates a client must show; None when it need not.
        not_after: when the server's certificate ends.
        context: made from these, for one connection or many; never changed.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    not_after: datetime
    context: ssl.SSLContext = field(compare=False, repr=False)


class CertificateStore(Watched[Certificates]):
    """The last good certificate of the files that the settings name.

    Raises:
        SettingsError: unreadable, encrypted, or a key that does not belong to the certificate.
    """

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None) -> None:
        files = [cert_file, key_file] + ([client_ca_file] if client_ca_file else [])

        def signature() -> Signature:
            return tuple(fingerprint(file.resolve()) for file in files)

        def load() -> Certificates:
            return _read(cert_file, key_file, client_ca_file)

        super().__init__("tls.cert_file", signature, load, _log_change)
        _warn_when_expired(self.value)

    @classmethod
    def from_settings(cls, tls: TlsSettings) -> CertificateStore | None:
        """Return None when TLS is off."""
        if tls.cert_file is None or tls.key_file is None:
            return None
        return cls(tls.cert_file, tls.key_file, tls.client_ca_file)


def _read(cert_file: Path, key_file: Path, client_ca_file: Path | None) -> Certificates:
    chain = _bytes("tls.cert_file", cert_file)
    key = _bytes("tls.key_file", key_file)
    client_ca = client_ca_file and _bytes("tls.client_ca_file", client_ca_file)
    leaf = _first("tls.cert_file", cert_file, chain)
    if not _works_on_both_ports(leaf):
        raise SettingsError(
            f"tls.cert_file: {cert_file} has a kind of key that gRPC cannot use; "
            "make one with RSA, P-256 or P-384"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_password)
    except _Encrypted:
        raise SettingsError(
            f"tls.key_file: {key_file} is encrypted; store it without a passphrase"
        ) from None
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"tls.key_file: {key_file} and {cert_file} do not make a pair that can be used "
            f"({_reason(error)}); both must be PEM, and the key the certificate's own"
        ) from None
    if client_ca_file and client_ca:
        _first("tls.client_ca_file", client_ca_file, client_ca)
        try:
            context.load_verify_locations(client_ca_file)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                f"tls.client_ca_file: {client_ca_file} cannot be used ({_reason(error)})"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Certificates(chain, key, client_ca or None, leaf.not_valid_after_utc, context)


class _Encrypted(Exception):
    pass


def _refuse_password() -> str:
    # Without this, OpenSSL asks the terminal and waits.
    raise _Encrypted


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _first(setting: str, path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise SettingsError(f"{setting}: {path} holds no PEM certificate") from None


def _works_on_both_ports(certificate: x509.Certificate) -> bool:
    """OpenSSL, on the HTTP port, takes keys that gRPC's BoringSSL fails every handshake with."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    return isinstance(key, rsa.RSAPublicKey)


def _reason(error: OSError) -> str:
    """OpenSSL's name for what is wrong; its message would add addresses in its own source."""
    return str(getattr(error, "reason", None) or error.strerror or type(error).__name__)


def _warn_when_expired(certificates: Certificates) -> None:
    # No refusal: whether to accept it is the client's to say, and many gateways do.
    if certificates.not_after <= datetime.now(UTC):
        log.error(
            "the TLS certificate has expired; clients that check it will not connect",
            extra={"not_after": certificates.not_after.isoformat()},
        )


def _log_change(old: Certificates, new: Certificates) -> None:
    log.info("TLS certificate changed", extra={"not_after": new.not_after.isoformat()})
    _warn_when_expired(new)
