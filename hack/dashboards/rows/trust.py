"""Are keys, certificates and audit in order?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Lines, Number, Query, Row
from hack.dashboards.promql import RANGE, increase, rate, series, total
from predictor.telemetry.metrics import (
    AUDIT_DROPPED,
    AUDIT_FAILING,
    CERTIFICATE_END,
    RELOAD_FAILURES,
    RELOAD_SUCCESS,
    STORE_FAILURES,
)

RELOAD: Final = ("RealfakeReloadFailing",)
AUDIT: Final = ("RealfakeAuditFailing",)
DAY_S: Final = 86_400

ROW: Final = Row(
    "Are keys, certificates and audit in order?",
    (
        Number(
            title="Certificate ends in",
            reads="The TLS certificate in use that ends first. Alerts begin at 14 days and 3.",
            queries=(Query(f"min({series(CERTIFICATE_END)}) - time()"),),
            unit="s",
            decimals=0,
            base_color=style.RED,
            limits={
                days * DAY_S: color
                for days, color in zip(
                    style.CERTIFICATE_DAYS, (style.ORANGE, style.GREEN), strict=True
                )
            },
            runbooks=("RealfakeCertificateExpiring",),
            empty="TLS is off",
        ),
        Number(
            title="Audit",
            reads="Replicas that cannot write their audit log: they refuse inference, or it "
            "goes unrecorded.",
            queries=(Query(total(series(AUDIT_FAILING)), "failing"),),
            limits={1: style.RED},
            runbooks=AUDIT,
            empty="audit is off",
        ),
        Number(
            title="Audit records lost",
            reads="Given up over the time shown, where `audit.on_failure` is `open`. Each is a "
            "gap.",
            queries=(Query(total(increase(AUDIT_DROPPED, window=RANGE))),),
            limits={1: style.RED},
            decimals=0,
            runbooks=AUDIT,
            empty="audit is off",
        ),
        Lines(
            title="Refused changes of keys and certificates",
            reads="Attempts a second to read changed files. Anything above zero for minutes "
            "means that a revoked key still works.",
            queries=(
                Query(
                    total(rate(RELOAD_FAILURES), "pod", "files"),
                    "{{pod}} {{files}}",
                ),
            ),
            unit="ops",
            runbooks=RELOAD,
            empty="neither keys nor certificates are in use",
            width=12,
            height=4,
        ),
        Lines(
            title="Age of keys and certificates in use, by pod",
            reads="Since when each pod uses what it uses. After a rotation every line falls to "
            "zero within two minutes; one that does not has not got it.",
            queries=(Query(f"time() - {series(RELOAD_SUCCESS)}", "{{pod}} {{files}}"),),
            unit="s",
            runbooks=RELOAD,
            empty="neither keys nor certificates are in use",
            width=12,
        ),
        Lines(
            title="Failures of the rate limits' store",
            reads="Questions a second that it did not answer. Meanwhile limits do not hold, or "
            "inference is refused: `rate_limit.on_store_failure`.",
            queries=(Query(total(rate(STORE_FAILURES), "pod"), "{{pod}}"),),
            unit="ops",
            runbooks=("RealfakeRateLimitStoreFailing",),
            empty="rate limits are off",
            width=12,
        ),
    ),
)
