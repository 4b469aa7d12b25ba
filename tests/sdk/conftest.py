"""The same server processes as tests/server."""

from __future__ import annotations

from tests.server.conftest import photo, server

__all__ = ["photo", "server"]
