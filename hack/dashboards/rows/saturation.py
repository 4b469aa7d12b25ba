"""Is it saturated?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Lines, Query, Row
from hack.dashboards.promql import RATE, named, quantile, quantiles, rate, series, total
from predictor.telemetry.metrics import (
    IMAGES,
    IN_FLIGHT,
    LOOP_LAG,
    QUEUE_DEPTH,
    QUEUE_LIMIT,
    QUEUE_WAIT,
    REJECTIONS,
)

FULL: Final = ("RealfakeQueueNearFull", "RealfakeSheddingLoad")

ROW: Final = Row(
    "Is it saturated?",
    (
        Lines(
            title="Requests in flight, by pod",
            reads="Requests being served now. Pods that differ much are balanced badly; the "
            "limit of each is `limits.max_in_flight`.",
            queries=(Query(series(IN_FLIGHT), "{{pod}}"),),
            runbooks=("RealfakeSheddingLoad",),
            empty="nothing is scraped",
        ),
        Lines(
            title="How full the queue is, by pod",
            reads="Pictures that wait for the network, as a share of `batching.max_queue`. "
            "An alert begins at the red line.",
            queries=(Query(f"{series(QUEUE_DEPTH)} / {series(QUEUE_LIMIT)}", "{{pod}}"),),
            unit="percentunit",
            most=1,
            limits={style.QUEUE: style.RED},
            runbooks=FULL,
            empty="nothing is scraped",
        ),
        Lines(
            title="Wait for the network",
            reads="Half, nine of ten and 99 of 100 pictures wait at most this. It grows before "
            "anything is refused: the time to scale.",
            queries=tuple(Query(expr, name) for expr, name in quantiles(QUEUE_WAIT)),
            unit="s",
            runbooks=FULL,
            empty="no pictures",
        ),
        Lines(
            title="Refused, by reason",
            reads="Requests a second that were turned away at once. `rate_limited` is a "
            "caller's own limit; `not_ready` is a start; the others say which limit was "
            "reached.",
            queries=(Query(total(rate(REJECTIONS), "reason"), "{{reason}}"),),
            unit="reqps",
            stacked="normal",
            runbooks=FULL,
            empty="nothing was refused",
        ),
        Lines(
            title="How late the event loop runs, by pod",
            reads="99 of 100 looks found it at most this late. Every request and probe waits "
            "for it; an alert begins at the red line.",
            queries=(Query(quantile(0.99, LOOP_LAG, "pod"), "{{pod}}"),),
            unit="s",
            limits={style.LAG_S: style.RED},
            runbooks=("RealfakeEventLoopLag",),
            empty="nothing is scraped",
        ),
        Lines(
            title="Pictures classified, by pod",
            reads="Throughput. Flat while the wait grows means that this is all a pod can do.",
            queries=(Query(total(rate(IMAGES, outcome="classified"), "pod"), "{{pod}}"),),
            unit="ops",
            runbooks=("RealfakeSheddingLoad",),
            empty="no pictures",
        ),
        Lines(
            title="CPU, by pod",
            reads="Cores used by the server's process. Decoders, and lanes on a CPU, are processes "
            "of their own and not in it; `kubectl top` has all.",
            queries=(
                Query(
                    total(f"rate({named('process_cpu_seconds_total')}[{RATE}])", "pod"), "{{pod}}"
                ),
            ),
            unit="suffix:cores",
            runbooks=("RealfakeEventLoopLag",),
            empty="nothing is scraped",
            width=12,
        ),
        Lines(
            title="Memory, by pod",
            reads="Resident memory of the server's process, without decoders and lanes. It should "
            "level off after the start; the limit is that of the container.",
            queries=(Query(named("process_resident_memory_bytes"), "{{pod}}"),),
            unit="bytes",
            empty="nothing is scraped",
            runbooks=("RealfakeNoReadyReplica",),
            width=12,
        ),
    ),
)
