"""Notices what a replica cannot recover from: a device, or decoders, that are lost."""

from __future__ import annotations

import asyncio
from typing import Final

from predictor.inference.pipeline import Pipeline

POLL_S: Final = 0.25


async def device_lost(pipeline: Pipeline, *, forward_timeout_s: float) -> str:
    """Wait until the device is lost, or all that decodes; return how that shows."""
    while True:
        if not pipeline.decodes:
            return "no decoder can be started any more; the log above says why"
        if not pipeline.healthy:
            return "the device thread ended; the log above says why"
        if pipeline.longest_forward_s > forward_timeout_s:
            return (
                f"a forward has been running for more than {forward_timeout_s:g} s "
                "(batching.forward_timeout_s)"
            )
        await asyncio.sleep(POLL_S)
