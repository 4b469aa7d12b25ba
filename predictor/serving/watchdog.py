"""Notices a device that will not answer any more."""

from __future__ import annotations

import asyncio
from typing import Final

from predictor.inference.classifier import Classifier

POLL_S: Final = 0.25


async def device_lost(classifier: Classifier, *, forward_timeout_s: float) -> str:
    """Wait until the device is lost; return how that shows."""
    while True:
        if not classifier.healthy:
            return "the device thread ended; the log above says why"
        if classifier.longest_forward_s > forward_timeout_s:
            return (
                f"a forward has been running for more than {forward_timeout_s:g} s "
                "(batching.forward_timeout_s)"
            )
        await asyncio.sleep(POLL_S)
