"""Who is calling?"""

from __future__ import annotations

from typing import Final

from hack.dashboards import style
from hack.dashboards.description import Lines, Query, Row, Table
from hack.dashboards.promql import RANGE, increase, rate, share, total
from predictor.telemetry.metrics import KEY_REQUESTS, REQUESTS

SHED: Final = ("RealfakeSheddingLoad",)
NOT_OK: Final = tuple(outcome for outcome in style.KEY_OUTCOMES if outcome != "ok")


def named(expr: str) -> str:
    """With a name for those without a key: an empty legend reads like a fault of the panel."""
    return f'label_replace({expr}, "key_id", "(no key)", "key_id", "")'


ROW: Final = Row(
    "Who is calling?",
    (
        Lines(
            title="Requests, by API key",
            reads="Requests a second on every route that wants a key, by the key's id. `(no "
            "key)` sent none that was accepted.",
            queries=(Query(named(total(rate(KEY_REQUESTS), "key_id")), "{{key_id}}"),),
            unit="reqps",
            stacked="normal",
            runbooks=SHED,
            empty="no requests, or no API keys",
        ),
        Lines(
            title="Requests with a key, by how they end",
            reads="`refused` is the caller's mistake, `failed` is ours. A rise of "
            "`unauthenticated` is a key that was rotated and not handed on, or somebody who "
            "tries.",
            queries=(Query(total(rate(KEY_REQUESTS), "outcome"), "{{outcome}}"),),
            unit="reqps",
            stacked="normal",
            colors=style.KEY_OUTCOMES,
            runbooks=("RealfakeReloadFailing", *SHED),
            empty="no requests, or no API keys",
        ),
        Lines(
            title="Requests, by protocol",
            reads="Requests for inference a second. `legacy` is the old `/infer`: at zero it "
            "can go.",
            queries=(Query(total(rate(REQUESTS), "protocol"), "{{protocol}}"),),
            unit="reqps",
            stacked="normal",
            runbooks=SHED,
            empty="no requests",
        ),
        Lines(
            title="Not ok, by API key",
            reads="Share of a key's requests that did not end well, whoever was to blame. One "
            "key alone is its caller; all keys together are us.",
            queries=(
                Query(
                    named(share(rate(KEY_REQUESTS, outcome=NOT_OK), rate(KEY_REQUESTS), "key_id")),
                    "{{key_id}}",
                ),
            ),
            unit="percentunit",
            most=1,
            runbooks=("RealfakeErrorBudgetBurnFast", *SHED),
            empty="no requests, or no API keys",
            width=12,
        ),
        Table(
            title="Requests of the time shown",
            reads="How much each key asked, and how it ended for it: whom to ask about a rise.",
            queries=(
                Query(
                    "sort_desc("
                    + named(total(increase(KEY_REQUESTS, window=RANGE), "key_id", "outcome"))
                    + ")"
                ),
            ),
            columns={"key_id": "API key", "outcome": "outcome"},
            value="requests",
            decimals=0,
            runbooks=SHED,
            empty="no requests, or no API keys",
            width=12,
        ),
    ),
)
