"""Decoder processes for tests, of a decoder that tests/faults.py can break."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from predictor.bundle.manifest import Preprocessing
from predictor.inference.decode_process import ProcessDecodePool
from predictor.inference.decode_wire import Terms
from predictor.inference.decoding import DecodeLimits
from tests import faults

PREPROCESSING = Preprocessing((64, 64))
MIB = 1024 * 1024


def terms(*, max_cpu_s: float = 1.0, max_memory_bytes: int = 512 * MIB) -> Terms:
    return Terms(faults.decode, PREPROCESSING, DecodeLimits(), max_cpu_s, max_memory_bytes)


@contextlib.asynccontextmanager
async def opened(
    limits: Terms | None = None, *, workers: int = 1, **options: Any
) -> AsyncIterator[ProcessDecodePool]:
    pool = ProcessDecodePool(limits or terms(), workers=workers, **options)
    try:
        yield pool
    finally:
        pool.close()
        await pool.wait_closed()
