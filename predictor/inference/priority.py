"""What computes gives way to the event loop, or a busy server cannot even refuse.

Linux gives each thread a priority of its own, and weighs only those of one container against one
another. docs/decisions/0009 has what it is worth.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

LANE: Final = 10
"""Steps of nice, for a thread that computes and needs the GIL in between: whoever waits for the
GIL waits for it, so it has to come before what never holds it. A tenth of the event loop's weight
(`sched_prio_to_weight` in the kernel)."""
DECODER: Final = 19
"""For what computes in a process of its own: all the way."""
_NICEST: Final = 19


def give_way(steps: int) -> None:
    """Lower the priority of the calling thread, and of the threads that it starts."""
    thread = threading.get_native_id()
    # A sandbox may forbid it: then all are equal, as they are by default.
    with contextlib.suppress(OSError):
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, usual + steps))
