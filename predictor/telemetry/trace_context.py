"""The trace that a request belongs to: W3C Trace Context, https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """What a caller says of its own span.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16.
        sampled: whether the caller traces this request.
    """

    trace_id: str
    span_id: str
    sampled: bool


def parse(traceparent: str | None) -> TraceParent | None:
    """A `traceparent` header; None where there is none, or none that is valid.

    Versions to come may carry more fields behind the four that are known. `tracestate` is not
    read: it is text of the caller's choice, and nothing here passes it on.
    """
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found["more"] and found["version"] == "00"):
        return None
    return TraceParent(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))
