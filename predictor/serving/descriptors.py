"""File descriptors: enough of them for the connections that the settings allow."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger("predictor.server")

OF_OUR_OWN = 256
"""Listeners, key files, libraries."""
A_DECODER: Final = 3
"""Two sockets and a byte of shared memory."""


def allow_descriptors(max_connections: int, decoders: int) -> None:
    """Raise this process's soft limit as far as needed and allowed, or say what is missing.

    Args:
        max_connections: of each of the two protocols.
        decoders: processes.
    """
    needed = 2 * max_connections + A_DECODER * decoders + OF_OUR_OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    soft = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        log.warning(
            "fewer file descriptors than limits.max_connections may take; raise the hard limit "
            "or lower the setting",
            extra={"descriptors": soft, "needed": needed},
        )
