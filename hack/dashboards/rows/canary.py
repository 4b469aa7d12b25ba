"""Is the canary as good as stable?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Lines, Query, Row
from hack.dashboards.promql import named, rate, series, share, total
from predictor.telemetry.metrics import MODEL_INFO, REQUESTS, VERDICTS

WORSE: Final = ("RealfakeCanaryWorse",)
NO_CANARY: Final = "no requests, or no rules: see docs/alerts.md"
WINDOW: Final = "15m"
"""As the alert and the rollout assistant compare."""


def _as_compared(title: str, reads: str, record: str, unit: str) -> Lines:
    return Lines(
        title=title,
        reads=f"{reads} Over 15 minutes, as the alert compares. The rules in manifests/alerts "
        "record this: without them it stays empty.",
        queries=(Query(named(record), "{{namespace}}/{{job}} {{track}}"),),
        unit=unit,
        limits={style.OBJECTIVE_S: style.RED} if unit == "s" else {},
        runbooks=WORSE,
        empty=NO_CANARY,
    )


ROW: Final = Row(
    "Is the canary as good as stable?",
    (
        _as_compared(
            "Failed, by track",
            "Share of the requests that failed through the service's fault; one in a hundred more "
            "than stable is worse.",
            "realfake:track_requests_failed:ratio_rate15m",
            "percentunit",
        ),
        _as_compared(
            "p99, by track",
            "99 of 100 answers take at most this; a fifth more than stable is worse.",
            "realfake:track_duration_seconds:p99_15m",
            "s",
        ),
        _as_compared(
            "Requests, by track",
            "What the comparison rests on: below 500 on either track it says nothing.",
            "realfake:track_requests:increase15m",
            "short",
        ),
        Lines(
            title="Called fake, by track",
            reads="Share of the pictures, over 15 minutes. Tracks get the same kind of "
            "pictures, so that a difference is the model's.",
            queries=(
                Query(
                    share(
                        rate(VERDICTS, window=WINDOW, verdict="fake"),
                        rate(VERDICTS, window=WINDOW),
                        "track",
                    ),
                    "{{track}}",
                ),
            ),
            unit="percentunit",
            most=1,
            colors=style.TRACKS,
            runbooks=WORSE,
            empty="no pictures",
        ),
        Lines(
            title="Share of the requests",
            reads="How the requests are split: it should follow `canary.weight`. Nothing for "
            "the canary means that its pods are not ready, or its route is not accepted.",
            queries=(Query(total(rate(REQUESTS), "track"), "{{track}}"),),
            unit="reqps",
            stacked="percent",
            colors=style.TRACKS,
            runbooks=WORSE,
            empty="no requests",
        ),
        Lines(
            title="Loaded replicas, by track and version",
            reads="Which version each track serves. During a rollout two versions of one track "
            "overlap.",
            queries=(
                Query(f"count by (track, version) ({series(MODEL_INFO)})", "{{track}} {{version}}"),
            ),
            runbooks=("RealfakeNoReadyReplica", *WORSE),
            empty="no model is loaded",
        ),
    ),
)
