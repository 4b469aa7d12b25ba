"""Colours that mean the same on every panel, and limits that are somebody's promise."""

from __future__ import annotations

from typing import Final

GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"

OBJECTIVE_S: Final = 0.25
"""What 99 of 100 answers are to take at most; a bound of the histogram's buckets."""
AVAILABILITY: Final = 0.999
IN_TIME: Final = 0.99
LAG_S: Final = 0.1
DRIFT: Final = 0.2
"""As in manifests/alerts, which says why; tests/contract/test_dashboards.py compares."""
BURN_FAST: Final = 14.4
CERTIFICATE_DAYS: Final = (3, 14)
QUEUE: Final = 0.6

VERDICTS: Final = {"fake": RED, "real": GREEN, "uncertain": "yellow"}
TRACKS: Final = {"stable": "blue", "canary": ORANGE}
CODES: Final = {
    "OK": GREEN,
    "INTERNAL": "dark-red",
    "NOT_READY": "light-red",
    "OVERLOADED": RED,
    "DEADLINE_EXCEEDED": ORANGE,
    "RATE_LIMITED": "purple",
    "UNAUTHENTICATED": "dark-purple",
    "INVALID_REQUEST": "blue",
    "INVALID_IMAGE": "light-blue",
    "CANCELLED": "#8e8e8e",
}
"""Green is served, red and orange our fault, blue and purple the caller's. Others take a colour of
their name's, the same on every panel."""
OUTCOMES: Final = {"classified": GREEN} | {
    code.lower(): color for code, color in CODES.items() if code != "OK"
}
KEY_OUTCOMES: Final = {
    "ok": GREEN,
    "failed": RED,
    "refused": "blue",
    "rate_limited": "purple",
    "unauthenticated": "dark-purple",
    "cancelled": "#8e8e8e",
}
