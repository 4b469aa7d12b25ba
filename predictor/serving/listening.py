"""HTTP listeners: sockets, and uvicorn as this server runs it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import uvicorn

from predictor.errors import StartupError
from predictor.serving.bounded_http import BoundedHttp
from predictor.settings import ServerSettings

BACKLOG: Final = 2048
"""Connections the kernel holds while the event loop is busy accepting others."""


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would close the port at the first SIGTERM.

    Args:
        tls: how `create_server` is to encrypt; nothing for plain text.
    """

    def __init__(
        self,
        app: Any,
        protocol: Callable[..., BoundedHttp],
        settings: ServerSettings,
        **tls: Any,
    ) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on who calls from where
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        )
        super().__init__(config)
        self._protocol = protocol
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for open sockets, which leaves a TLS handshake asyncio's minute."""
        connect = partial(
            self._protocol,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(connect, sock=listener, backlog=BACKLOG, **self._tls)
            for listener in sockets or []
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Open `port`, or a free one for 0.

    Args:
        setting: whose number it is, for the error.

    Raises:
        StartupError: it is taken, or not ours to open.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port} (server.{setting}): {os.strerror(error.errno or 0)}"
        ) from None
