"""The one dashboard: what is asked about a service, in the order in which it is asked."""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Annotation, Dashboard, Query
from hack.dashboards.promql import named, series
from hack.dashboards.rows import answers, callers, canary, gpu, health, saturation, speed, trust
from predictor.telemetry.metrics import MODEL_INFO


def _versions(ago: str = "") -> str:
    return f"count by (namespace, job, version) ({series(MODEL_INFO)}{ago})"


OVERVIEW: Final = Dashboard(
    uid="realfake-overview",
    title="realfake: overview",
    about="Every row is a question. docs/dashboards.md says how to read and change it; it is "
    "made by `make generate`.",
    rows=(
        health.ROW,
        speed.ROW,
        saturation.ROW,
        gpu.ROW,
        answers.ROW,
        callers.ROW,
        canary.ROW,
        trust.ROW,
    ),
    annotations=(
        Annotation(
            "Alerts",
            Query(
                named("ALERTS", health.ALERTS, 'alertstate="firing"'),
                absent="nothing has waited long enough to fire",
            ),
            "{{alertname}} {{namespace}}/{{job}}",
            style.RED,
        ),
        Annotation(
            "New model versions",
            Query(
                f"{_versions()} unless {_versions(' offset 5m')}",
            ),
            "{{namespace}}/{{job}} serves {{version}}",
            "blue",
        ),
    ),
)
