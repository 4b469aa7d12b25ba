"""The trace that a request belongs to: W3C Trace Context, https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-.*)?"
)


def trace_id(traceparent: str | None) -> str | None:
    """The trace's id, 32 hexadecimal digits, of a `traceparent` header that is valid; else None.

    Versions to come may carry more fields behind the four that are known.
    """
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found["more"] and traceparent is not None and traceparent[:2] == "00"):
        return None
    return found["trace"]
