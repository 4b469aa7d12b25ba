"""llhttp, but for `Upgrade`: a request that offers another protocol and has a body is read as if it
did not offer it, as a server may (RFC 9110, 7.8).

llhttp takes what follows such a head for the other protocol's, the body as well. Java's client
offers HTTP/2 so with each request.
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools


class RequestParser:
    """What uvicorn and its subclasses here use of `httptools.HttpRequestParser`.

    Args:
        protocol: gets the callbacks. In `on_headers_complete` it may say `without_upgrade`.
    """

    def __init__(self, protocol: object) -> None:
        self._protocol = protocol
        self._parser = _parser(protocol)
        self._head = b""

    def feed_data(self, data: bytes) -> None:
        """Raises: httptools' HttpParserError and HttpParserUpgrade."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._head:
                    raise
                data = data[upgrade.args[0] :]
            else:
                return
            head, self._head = self._head, b""
            self._parser = _parser(self._protocol)
            self._parser.feed_data(head)

    def without_upgrade(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin the request whose head is here anew: its callbacks come again, from the first."""
        version = self.get_http_version().encode()
        lines = [self.get_method() + b" " + url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in headers if name != b"upgrade"]
        self._head = b"\r\n".join((*lines, b"", b""))

    @property
    def begins_anew(self) -> bool:
        """Whether what ends now is only the head that was read before."""
        return bool(self._head)

    def get_method(self) -> bytes:
        return self._parser.get_method()

    def get_http_version(self) -> str:
        return self._parser.get_http_version()

    def should_keep_alive(self) -> bool:
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        return self._parser.should_upgrade()


def _parser(protocol: object) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # As uvicorn has it: whoever asks with `Connection: close` and goes on is still answered.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
