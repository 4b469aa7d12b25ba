"""Is the GPU the limit?"""

from __future__ import annotations

from typing import Final

from hack.dashboards.description import Lines, Query, Row
from hack.dashboards.promql import series
from predictor.telemetry.metrics import (
    GPU_MEMORY_TOTAL,
    GPU_MEMORY_USED,
    GPU_POWER,
    GPU_TEMPERATURE,
    GPU_UTILIZATION,
)

FULL: Final = ("RealfakeQueueNearFull", "RealfakeSheddingLoad")
LEGEND: Final = "{{pod}} {{device}}"
ABSENT: Final = "no GPU there"
EMPTY: Final = "no GPU"

ROW: Final = Row(
    "Is the GPU the limit?",
    (
        Lines(
            title="GPU busy, by pod",
            reads="Share of the time in which the GPU did anything. Near 100 % while pictures wait "
            "means that it is the limit; low while they wait, look at decoding and CPU.",
            queries=(Query(series(GPU_UTILIZATION), LEGEND, absent=ABSENT),),
            unit="percentunit",
            most=1,
            runbooks=FULL,
            empty=EMPTY,
        ),
        Lines(
            title="GPU memory, by pod",
            reads="Share of the GPU's memory in use, by whoever shares it. A batch that does not "
            "fit is halved, and the log says so.",
            queries=(
                Query(f"{series(GPU_MEMORY_USED)} / {series(GPU_MEMORY_TOTAL)}", LEGEND, ABSENT),
            ),
            unit="percentunit",
            most=1,
            runbooks=FULL,
            empty=EMPTY,
        ),
        Lines(
            title="GPU temperature, by pod",
            reads="A hot GPU is clocked down, and every forward takes longer.",
            queries=(Query(series(GPU_TEMPERATURE), LEGEND, absent=ABSENT),),
            unit="celsius",
            runbooks=("RealfakeLatencyBudgetBurnFast",),
            empty=EMPTY,
            width=4,
        ),
        Lines(
            title="GPU power, by pod",
            reads="What it draws. Flat at the card's limit while busy is all that it can do.",
            queries=(Query(series(GPU_POWER), LEGEND, absent=ABSENT),),
            unit="watt",
            runbooks=("RealfakeLatencyBudgetBurnFast",),
            empty=EMPTY,
            width=4,
        ),
    ),
)
