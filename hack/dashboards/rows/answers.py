"""What is it answering?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Bars, Heatmap, Lines, Query, Row
from hack.dashboards.promql import increase, named, of_version, rate, series, share, total
from predictor.telemetry.metrics import FAKE_PROBABILITY, IMAGES, REFERENCE, VERDICTS

DRIFT: Final = ("RealfakeScoreDrift",)
WINDOW: Final = "6h"
"""As the alert looks at it: enough pictures, and a change still shows on the same day."""
BOUNDS: Final = tuple(str(float(bound)) for bound in FAKE_PROBABILITY.buckets[:-1])
"""All but the last, at or below which everything is."""


NOW: Final = named("realfake:fake_probability:cdf6h")


def _as_stable(series: str) -> str:
    """With the `job` of stable, as the rules record what stable and canary do together."""
    return f'label_replace({series}, "job", "$1-predictor", "job", "(.+)-canary-predictor")'


def at_most(bucket: str, count: str) -> str:
    """Share of the pictures scored at most `le`."""
    return f"{total(bucket, 'le')} / on () group_left () ({total(count)} > 0)"


def _of(version: str) -> str:
    return at_most(
        of_version(rate(FAKE_PROBABILITY, "_bucket", WINDOW, le=BOUNDS), version),
        of_version(rate(FAKE_PROBABILITY, "_count", WINDOW), version),
    )


def _week_ago() -> str:
    return at_most(
        rate(FAKE_PROBABILITY, "_bucket", WINDOW, "1w", le=BOUNDS),
        rate(FAKE_PROBABILITY, "_count", WINDOW, "1w"),
    )


def _mean_by_version() -> str:
    chosen = "$model_version"
    summed = total(of_version(rate(FAKE_PROBABILITY, "_sum"), chosen), "version")
    counted = total(of_version(rate(FAKE_PROBABILITY, "_count"), chosen), "version")
    return f"{summed} / ({counted} > 0)"


ROW: Final = Row(
    "What is it answering?",
    (
        Heatmap(
            title="Scores",
            reads="Pictures by their probability of being fake: brighter is more. A sure model "
            "is bright at both ends; a band that moves is drift.",
            queries=(
                Query(
                    total(increase(FAKE_PROBABILITY, "_bucket"), "le"),
                    "{{le}}",
                ),
            ),
            unit="percentunit",
            runbooks=DRIFT,
            empty="no pictures",
        ),
        Lines(
            title="Verdicts",
            reads="Share of each verdict. A mix that moves is other pictures, another model, "
            "or an attack.",
            queries=(Query(total(rate(VERDICTS), "verdict"), "{{verdict}}"),),
            unit="ops",
            stacked="percent",
            colors=style.VERDICTS,
            runbooks=DRIFT,
            empty="no pictures",
        ),
        Lines(
            title="Called fake, by model version",
            reads="Share of the pictures. Versions on the same pictures should agree within a "
            "few percent.",
            queries=(
                Query(
                    share(rate(VERDICTS, verdict="fake"), rate(VERDICTS), "model_version"),
                    "{{model_version}}",
                ),
            ),
            unit="percentunit",
            most=1,
            runbooks=DRIFT,
            empty="no pictures",
        ),
        Bars(
            title="Scores, cumulated",
            reads="Share of the pictures scored at most this, over 6 hours: now, in the bundle's "
            "reference, a week ago, and by the version to compare with. Equal bars are equal "
            "distributions.",
            queries=(
                Query(_of("$model_version"), "now"),
                Query(f"max by (le) ({series(REFERENCE)})", "reference"),
                Query(_week_ago(), "a week ago"),
                Query(_of("$other_version"), "other version"),
            ),
            label="le",
            unit="percentunit",
            runbooks=DRIFT,
            empty="no pictures",
            width=12,
        ),
        Lines(
            title="How far have the scores moved?",
            reads="The largest difference between the cumulated shares of now and those of the "
            "bundle's reference, and of a week ago. The line is where an alert begins. The rules "
            "in manifests/alerts record it; without them it stays empty.",
            queries=(
                Query(
                    f"max by (namespace, job) (abs({NOW} - on (namespace, job, le) "
                    f"max by (namespace, job, le) ({_as_stable(series(REFERENCE))})))",
                    "{{namespace}}/{{job}} from the reference",
                ),
                Query(
                    f"max by (namespace, job) (abs({NOW} - {NOW} offset 1w))",
                    "{{namespace}}/{{job}} in a week",
                ),
            ),
            unit="percentunit",
            most=1,
            limits={style.DRIFT: style.RED},
            runbooks=DRIFT,
            empty="no rules, or less than a week: see docs/alerts.md",
            width=12,
        ),
        Lines(
            title="Mean score, by model version",
            reads="One number for the whole distribution. A step at a rollout is the new "
            "model; a slow slope is the pictures.",
            queries=(Query(_mean_by_version(), "{{version}}"),),
            unit="percentunit",
            most=1,
            runbooks=DRIFT,
            empty="no pictures",
            width=12,
        ),
        Lines(
            title="What became of the pictures",
            reads="Pictures a second by outcome. Much `invalid_image` is a caller who sends "
            "something else.",
            queries=(Query(total(rate(IMAGES), "outcome"), "{{outcome}}"),),
            unit="ops",
            stacked="normal",
            colors=style.OUTCOMES,
            runbooks=("RealfakeErrorBudgetBurnSlow",),
            empty="no pictures",
            width=12,
        ),
    ),
)
