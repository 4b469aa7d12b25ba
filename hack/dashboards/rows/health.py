"""Is it healthy?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Lines, Number, Query, Row, Table
from hack.dashboards.promql import (
    COUNTED,
    FAILED,
    RANGE,
    named,
    rate,
    series,
    share,
    total,
)
from hack.dashboards.variables import RUNBOOK
from predictor.telemetry.metrics import DURATION, IN_FLIGHT, MODEL_INFO, REQUESTS

WINDOWS: Final = ("5m", "1h", "6h", "3d")
ALERTS: Final = 'alertname=~"Realfake.+"'


def _burn(
    title: str, record: str, allowed: float, objective: str, runbooks: tuple[str, ...]
) -> Lines:
    return Lines(
        title=title,
        reads=f"How many times faster than {objective} allows, by window. At 1 the budget of 30 "
        "days lasts 30 days; the lines are where alerts begin. The rules in manifests/alerts "
        "record this: without them it stays empty.",
        queries=tuple(
            Query(
                f"{named(f'{record}_rate{window}')} / {allowed:g}",
                f"{{{{namespace}}}}/{{{{job}}}} {window}",
            )
            for window in WINDOWS
        ),
        unit="suffix:x",
        limits={1: style.ORANGE, style.BURN_FAST: style.RED},
        runbooks=runbooks,
        empty="no requests, or no rules: see docs/alerts.md",
        width=8,
    )


ROW: Final = Row(
    "Is it healthy?",
    (
        Number(
            title="Served",
            reads="Share of the requests that were served, over the time shown. 99.9 % are to "
            "be. What is the caller's own fault is not counted.",
            queries=(
                Query(
                    "1 - "
                    + share(
                        rate(REQUESTS, window=RANGE, code=FAILED),
                        rate(REQUESTS, window=RANGE, code=COUNTED),
                    )
                ),
            ),
            unit="percentunit",
            decimals=3,
            base_color=style.RED,
            limits={style.AVAILABILITY: style.GREEN},
            runbooks=("RealfakeErrorBudgetBurnFast", "RealfakeErrorBudgetBurnSlow"),
            empty="no requests",
        ),
        Number(
            title="Answered within 250 ms",
            reads="Share of the answers that took at most 250 ms, over the time shown. 99 % "
            "are to.",
            queries=(
                Query(
                    share(
                        rate(DURATION, "_bucket", RANGE, le=f"{style.OBJECTIVE_S:g}"),
                        rate(DURATION, "_count", RANGE),
                    )
                ),
            ),
            unit="percentunit",
            decimals=2,
            base_color=style.RED,
            limits={style.IN_TIME: style.GREEN},
            runbooks=("RealfakeLatencyBudgetBurnFast", "RealfakeLatencyBudgetBurnSlow"),
            empty="no answers",
        ),
        Number(
            title="Replicas",
            reads="Those whose metrics arrive, and those of them that have loaded their model. "
            "Fewer loaded than running for long means that starts fail.",
            queries=(
                Query(f"count({series(IN_FLIGHT)})", "running"),
                Query(f"count({series(MODEL_INFO)})", "loaded"),
            ),
            base_color="text",
            runbooks=("RealfakeNoReadyReplica", "RealfakeMetricsMissing"),
            empty="none: nothing is scraped",
        ),
        Table(
            title="Alerts",
            reads="Alerts of the chosen services that wait for their time (pending) or fire. A "
            "name leads to its runbook.",
            queries=(Query(named("ALERTS", ALERTS)),),
            columns={
                "alertname": "alert",
                "alertstate": "state",
                "severity": "severity",
                "namespace": "namespace",
                "job": "service",
                "pod": "pod",
            },
            links={"alertname": f"{RUNBOOK}/${{__value.raw}}.md"},
            empty="none, or no rules: see docs/alerts.md",
            width=12,
            height=4,
        ),
        Lines(
            title="Requests, by how they ended",
            reads="Requests a second by code. Green is served; red and orange are the "
            "service's fault, blue and purple the caller's.",
            queries=(Query(total(rate(REQUESTS), "code"), "{{code}}"),),
            unit="reqps",
            stacked="normal",
            colors=style.CODES,
            runbooks=("RealfakeErrorBudgetBurnFast", "RealfakeSheddingLoad"),
            empty="no requests",
        ),
        _burn(
            "How fast does the error budget burn?",
            "realfake:requests_failed:ratio",
            round(1 - style.AVAILABILITY, 6),
            "99.9 % served",
            ("RealfakeErrorBudgetBurnFast", "RealfakeErrorBudgetBurnSlow"),
        ),
        _burn(
            "How fast does the latency budget burn?",
            "realfake:requests_slow:ratio",
            round(1 - style.IN_TIME, 6),
            "99 % within 250 ms",
            ("RealfakeLatencyBudgetBurnFast", "RealfakeLatencyBudgetBurnSlow"),
        ),
        Table(
            title="What is running",
            reads="Loaded replicas by track, version and digest of the model, engine and "
            "device. More than one digest on a track means that a rollout is under way, or "
            "stuck.",
            queries=(
                Query(
                    "count by (namespace, job, track, version, digest, engine, device) "
                    f"({series(MODEL_INFO)})"
                ),
            ),
            columns={
                "namespace": "namespace",
                "job": "service",
                "track": "track",
                "version": "version",
                "digest": "digest",
                "engine": "engine",
                "device": "device",
            },
            value="replicas",
            runbooks=("RealfakeNoReadyReplica",),
            empty="no model is loaded",
            width=24,
            height=5,
        ),
    ),
)
