"""The table of HTTP routes, and which one a request means."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel

from predictor.serving.http import HttpRequest, HttpResponse

Handler: TypeAlias = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path.

    Attributes:
        path: with `{name}` where a path segment is a parameter.
        answer: of JSON, where it is; for the description.
        public: answered without an API key. Only liveness and readiness are.
        inference: has a body, takes a place in flight, and ends when its caller hangs up.
        legacy: errors carry `detail` as well, as the old service's did.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[BaseModel] | None = None
    public: bool = False
    inference: bool = False
    legacy: bool = False

    @property
    def protocol(self) -> str:
        """`v1`, `v2` or `legacy`."""
        if self.legacy:
            return "legacy"
        return "v1" if self.path.startswith("/v1/") else "v2"


@dataclass(frozen=True, slots=True)
class Match:
    """The route a request means, or the methods its path does allow."""

    route: Route | None
    params: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()

    @property
    def legacy(self) -> bool:
        return self.route is not None and self.route.legacy


class Routes:
    def __init__(self, routes: Sequence[Route]) -> None:
        self.table = tuple(routes)
        self._patterns = [(_pattern(route.path), route) for route in routes]

    def match(self, method: str, path: str) -> Match:
        """Find the route for `method` and the percent-decoded `path`; HEAD is served as GET."""
        wanted = "GET" if method == "HEAD" else method
        allowed: list[str] = []
        for pattern, route in self._patterns:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if route.method == wanted:
                return Match(route, found.groupdict())
            allowed.append(route.method)
        return Match(None, allowed=tuple(sorted(set(allowed))))


def _pattern(path: str) -> re.Pattern[str]:
    literal = re.split(r"\{(\w+)\}", path)
    parts = [
        f"(?P<{part}>[^/:]+)" if index % 2 else re.escape(part)
        for index, part in enumerate(literal)
    ]
    return re.compile("".join(parts))
