"""TLS on both ports, with the certificate in force when a connection opens."""

from __future__ import annotations

import ssl
from typing import Any

import grpc

from predictor.security.certificates import Certificates, CertificateStore


class CurrentContext(ssl.SSLContext):
    """What asyncio takes for a context: each connection gets the store's, as it is then.

    Loading a new pair into a live context could leave it with half of each.
    """

    _store: CertificateStore

    def __new__(cls, store: CertificateStore) -> CurrentContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._store = store
        return self

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self._store.value.context.wrap_bio(
            incoming, outgoing, server_side, server_hostname, session
        )


def grpc_credentials(store: CertificateStore) -> grpc.ServerCredentials:
    """Credentials that follow the store; gRPC asks at each new connection."""
    given = store.value

    def fetch() -> Any:  # None for "as before", which the stubs leave out
        nonlocal given
        current = store.value
        if current is given:
            return None
        given = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,
        require_client_authentication=given.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], certificates.client_ca
    )
