"""Threads that compute give way to the event loop, or a busy server cannot even refuse."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

NICER: Final = 10
"""Steps of nice: by the kernel's table (sched(7), sched_prio_to_weight) a tenth of the weight, so
that the event loop gets a core when it asks, and what it leaves, nearly all, is for computing."""
_NICEST: Final = 19


def give_way() -> None:
    """Lower the priority of the calling thread, and of what it starts. Linux has one for each
    thread; only this container's are weighed against one another."""
    thread = threading.get_native_id()
    # A sandbox may forbid it: then all are equal, as they are by default.
    with contextlib.suppress(OSError):
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, usual + NICER))
