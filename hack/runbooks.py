"""What a runbook of `manifests/runbooks/` says, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RUNBOOKS: Final = Path(__file__).parents[1] / "manifests" / "runbooks"


def queries(page: Path) -> list[str]:
    """The PromQL of a runbook; in a block, an empty line is between two."""
    found = re.findall(r"^```promql\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [query for block in found for query in block.strip().split("\n\n")]


@dataclass(frozen=True, slots=True)
class Runbook:
    """Attributes: mitigations: the points of its last part, each in one line."""

    name: str
    meaning: str
    queries: tuple[str, ...]
    mitigations: tuple[str, ...]

    @classmethod
    def read(cls, alert: str) -> Runbook:
        page = RUNBOOKS / f"{alert}.md"
        parts = re.split(r"^## (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
        sections = dict(zip(parts[1::2], parts[2::2], strict=True))
        points = re.split(r"^- ", sections["Mitigation"], flags=re.MULTILINE)[1:]
        return cls(
            alert,
            _one_line(sections["Meaning"].strip().partition("\n\n")[0]),
            tuple(queries(page)),
            tuple(map(_one_line, points)),
        )

    def mitigation(self, start: str) -> str:
        """The point that starts so.

        Raises:
            KeyError: there is none, or more than one: the runbook has changed.
        """
        found = [point for point in self.mitigations if point.startswith(start)]
        if len(found) != 1:
            raise KeyError(f"{self.name}.md: {len(found)} mitigations start with {start!r}")
        return found[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())
