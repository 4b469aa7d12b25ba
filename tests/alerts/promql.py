"""Which series and labels a PromQL expression asks for.

Whether the syntax is right, promtool says. Here words are told apart by what is around them, and a
word that is none of the known kinds is taken for a metric, so that nothing is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FUNCTIONS: Final = frozenset(
    {
        *("abs", "avg_over_time", "count", "histogram_quantile", "increase", "label_replace"),
        *("last_over_time", "max", "min", "rate", "sum", "time", "topk"),
    }
)
"""Those in use; another one has to be added here, and thereby looked at."""
OPERATORS: Final = frozenset({"and", "or", "unless", "offset", "bool"})
GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})

_STRING: Final = r'"(?:[^"\\]|\\.)*"'
_TOKEN: Final = re.compile(rf"{_STRING}|=~|!~|!=|\[[^\]]*\]|[a-zA-Z_:][\w:]*|[0-9.]+[a-z]*|\S")
_MATCHER: Final = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")


@dataclass(frozen=True, slots=True)
class Selector:
    """One series that is asked for.

    Attributes:
        matchers: label, operator and value; a label may occur twice.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def values(self, label: str) -> list[str]:
        """What is asked of a label, with the alternatives of a pattern apart."""
        return [
            value
            for name, operator, text in self.matchers
            if name == label
            for value in (text.split("|") if "~" in operator else [text])
        ]


@dataclass(frozen=True, slots=True)
class Query:
    selectors: tuple[Selector, ...]
    grouped: frozenset[str]


def read(expression: str) -> Query:
    """Take an expression apart.

    Raises:
        ValueError: where it calls a function that is not listed above.
    """
    tokens = _TOKEN.findall(expression)
    selectors: list[Selector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        word, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if not re.match(r"[a-zA-Z_:]", word) or word in OPERATORS:
            continue
        if word in GROUPING:
            if following == "(":
                end = tokens.index(")", at)
                grouped |= {token for token in tokens[at + 1 : end] if token != ","}
                at = end + 1
        elif word in FUNCTIONS:
            continue
        elif following == "(":
            raise ValueError(f"{word}() is not known here; look at it, and list it")
        elif following == "{":
            end = tokens.index("}", at)
            matchers = _MATCHER.findall(" ".join(tokens[at + 1 : end]))
            selectors.append(
                Selector(word, tuple((name, op, text[1:-1]) for name, op, text in matchers))
            )
            at = end + 1
        else:
            selectors.append(Selector(word))
    return Query(tuple(selectors), frozenset(grouped))
