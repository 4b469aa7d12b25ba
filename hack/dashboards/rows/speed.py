"""Is it fast, and where does the time go?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Heatmap, Lines, Query, Row
from hack.dashboards.promql import increase, mean, quantile, quantiles, rate, total
from predictor.telemetry.metrics import BATCH_SIZE, DURATION, IMAGES, STAGE

SLOW: Final = ("RealfakeLatencyBudgetBurnFast", "RealfakeLatencyBudgetBurnSlow")
OBJECTIVE: Final = {style.OBJECTIVE_S: style.RED}
CLASSIFIED: Final = total(rate(IMAGES, outcome="classified"))

ROW: Final = Row(
    "Is it fast, and where does the time go?",
    (
        Lines(
            title="Time to the answer",
            reads="Half, nine of ten and 99 of 100 answers take at most this. The red line is "
            "the objective for p99. What is refused at once is not in it. A dot is one request.",
            queries=tuple(Query(expr, name, exemplars=True) for expr, name in quantiles(DURATION)),
            unit="s",
            limits=OBJECTIVE,
            runbooks=SLOW,
            empty="no answers",
        ),
        Heatmap(
            title="How answers spread",
            reads="Answers by how long they took: brighter is more. Two bands are two kinds of "
            "requests, which a quantile hides.",
            queries=(Query(total(increase(DURATION, "_bucket"), "le"), "{{le}}"),),
            unit="s",
            runbooks=SLOW,
            empty="no answers",
        ),
        Lines(
            title="p99, by protocol",
            reads="99 of 100 answers take at most this. A protocol alone that is slow points "
            "at its callers: large pictures, or many in one request.",
            queries=(Query(quantile(0.99, DURATION, "protocol"), "{{protocol}}"),),
            unit="s",
            limits=OBJECTIVE,
            runbooks=SLOW,
            empty="no answers",
        ),
        Lines(
            title="Where the time goes",
            reads="Time spent in each stage for one classified picture, on average. `forward` "
            "is shared by its batch, so that a picture waits longer than its share: the next "
            "panel has that.",
            queries=(
                Query(
                    f"{total(rate(STAGE, '_sum'), 'stage')} "
                    f"/ on () group_left () ({CLASSIFIED} > 0)",
                    "{{stage}}",
                ),
            ),
            unit="s",
            stacked="normal",
            runbooks=SLOW,
            empty="no pictures",
        ),
        Lines(
            title="p99, by stage",
            reads="99 of 100 take at most this: pictures in `decode` and `queue`, batches in "
            "`forward`, answers in `encode`. The highest line is where to look first.",
            queries=(Query(quantile(0.99, STAGE, "stage"), "{{stage}}"),),
            unit="s",
            runbooks=SLOW,
            empty="no pictures",
        ),
        Lines(
            title="Pictures in one batch",
            reads="Mean, and what nine of ten batches hold at most. On a GPU 1 under load means "
            "that batching does not work; the limit is `batching.max_batch_size`. ONNX Runtime "
            "takes 4 at most, and pictures above 256 KiB alone.",
            queries=(
                Query(mean(BATCH_SIZE), "mean"),
                Query(quantile(0.9, BATCH_SIZE), "p90"),
            ),
            runbooks=SLOW,
            empty="no batches",
        ),
    ),
)
