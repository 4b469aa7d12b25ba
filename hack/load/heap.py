"""Keeping this process's own garbage collection out of what it measures."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """What is there already is no garbage until the end of the block. To go through it, with torch
    or a peer's client in it, stops a load client for tenths of a second, which the server is then
    charged for."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
