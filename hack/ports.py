"""Ports for servers that developer scripts start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of the loopback interface that nobody used a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
