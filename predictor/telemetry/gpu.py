"""What the GPU says of itself, through NVIDIA's management library, asked at each scrape."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from predictor.telemetry import metrics as names
from predictor.telemetry.metrics import Metric
from predictor.telemetry.recording import Metrics

log = logging.getLogger("predictor.gpu")


def measure_gpu(metrics: Metrics, uuid: str, device: str) -> None:
    """Read the figures of one GPU from now on; without the library, say so and read none.

    What a GPU does not tell (a MIG slice has no utilisation) has no series.

    Args:
        uuid: as CUDA gives it, without `GPU-` or `MIG-` in front.
        device: the metrics' label.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _handle(pynvml, uuid)
    except pynvml.NVMLError as error:
        log.warning("no GPU figures", extra={"reason": str(error)})
        return
    readings: list[tuple[Metric, Callable[[], float]]] = [
        (
            names.GPU_UTILIZATION,
            lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        ),
        (names.GPU_MEMORY_USED, lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        (names.GPU_MEMORY_TOTAL, lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        (
            names.GPU_TEMPERATURE,
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        ),
        (names.GPU_POWER, lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000),
    ]
    for metric, reading in readings:
        metrics.read(metric, partial(_or_none, reading, pynvml.NVMLError), device=device)


def _handle(pynvml: Any, uuid: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError_NotFound:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _or_none(reading: Callable[[], float], failure: type[Exception]) -> float | None:
    try:
        return float(reading())
    except failure:
        return None
