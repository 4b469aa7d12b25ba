"""Python itself, set up to serve. What each line is worth is in docs/decisions/0006."""

from __future__ import annotations

import gc
import sys
from typing import Final

GC_THRESHOLD: Final = 10_000
"""New objects between two collections: some twenty requests' instead of one request's."""
SWITCH_INTERVAL_S: Final = 0.0005
"""How long a busy thread keeps the GIL from one that asks for it. Lanes and decode workers ask
for a moment between two long calls without it, and each wait leaves a core idle."""


def set_up_interpreter() -> None:
    """Call once, when everything that lives as long as the process is loaded.

    That is hundreds of thousands of objects. Under load garbage collection would go through them
    many times a second, in which no other thread runs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
