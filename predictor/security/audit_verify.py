"""Find what was removed, reordered, altered or repeated in a file of audit records."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from predictor.security.audit_chain import ENDED, KEYED, PLAIN, STARTED, digest_of, parse

_IDENTITY: Final = re.compile(r"[0-9a-f]{32}")
_MAX_LINE: Final = 1024 * 1024


@dataclass(slots=True)
class Report:
    """Attributes: audit records that are right, other lines, and what is wrong."""

    records: int = 0
    others: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Head:
    """How far a chain has come; `ended` where its process said that this is all."""

    chain: str
    algorithm: str
    seq: int
    hash: str
    ended: bool = False


class Verifier:
    """Reads lines in order, of one file or of several that follow each other.

    Args:
        key: the secret that the records were made with, if any.
        max_problems: where to stop: after the first damage others follow from it.
        strict: the lines are one replica's file and nothing else, so that one which is no record,
            and a chain which does not go on from the one before, are damage too.
    """

    def __init__(
        self, key: bytes | None = None, max_problems: int = 20, *, strict: bool = False
    ) -> None:
        self._key = key
        self._max_problems = max_problems
        self._strict = strict
        self._heads: dict[str, Head] = {}
        self._continued: set[str] = set()
        self.report = Report()

    @property
    def heads(self) -> Iterable[Head]:
        """Where each chain ends."""
        return self._heads.values()

    def read(self, lines: Iterable[bytes], name: str) -> bool:
        """Check lines; memory grows with chains, not with lines. False once it gave up."""
        for number, line in enumerate(lines, 1):
            record = parse(line)
            if record is None:
                self.report.others += 1
                problem = "no audit record" if self._strict else None
            else:
                problem = self._check(record)
                self.report.records += problem is None
            if problem is None:
                continue
            self.report.problems.append(f"{name}:{number}: {problem}")
            if len(self.report.problems) >= self._max_problems:
                return False
        return True

    def _check(self, record: dict[str, Any]) -> str | None:
        """What is wrong with the next record; None when nothing is."""
        chain, seq, stated = str(record.get("chain")), record.get("seq"), record.pop("hash", None)
        named = _IDENTITY.fullmatch(chain) is not None
        if not named or type(seq) is not int or not isinstance(stated, str):
            return "altered: it lacks its chain, its number or its hash"
        head = self._heads.get(chain)
        problem = self._content(record, stated, head)
        # The number of an altered record may be altered too: believe it only where it fits.
        fits = problem is None or seq == (head.seq + 1 if head else 0)
        if problem is None:
            problem = self._place(record, head)
        if head is None and fits:
            algorithm = str(record.get("algorithm", self._expected))
            self._heads[chain] = Head(chain, algorithm, seq, stated)
        elif head is not None and fits and seq > head.seq:
            # After a gap go on from here, so that one removed line is one problem.
            head.seq, head.hash, head.ended = seq, stated, record.get("message") == ENDED
        return problem

    def _content(self, record: dict[str, Any], stated: str, head: Head | None) -> str | None:
        """A forger must not choose the algorithm: with a key only keyed chains are right."""
        found = head.algorithm if head else record.get("algorithm", self._expected)
        if found != self._expected:
            if found == KEYED:
                return "made with a secret; give its file with --hmac-key-file"
            return "made without the secret that was given"
        try:
            digest = digest_of(record, self._key)
        except RecursionError:
            digest = ""
        if not hmac.compare_digest(digest.encode(), stated.encode("utf-8", "replace")):
            return "altered: its hash is not that of its content"
        return None

    @property
    def _expected(self) -> str:
        return PLAIN if self._key is None else KEYED

    def _place(self, record: dict[str, Any], head: Head | None) -> str | None:
        chain, seq, previous = record["chain"], record["seq"], record.get("previous")
        if head is None:
            if seq != 0 or record.get("message") != STARTED:
                return f"removed before it: chain {chain} begins here at number {seq}, not at 0"
            return self._continue(previous)
        if seq <= head.seq:
            return f"repeated or reordered: number {seq} of its chain comes after {head.seq}"
        if seq > head.seq + 1:
            missing = seq - head.seq - 1
            return f"removed before it: {missing} of its chain, from number {head.seq + 1}"
        if previous != head.hash:
            return "reordered or replaced before it: it does not follow from the record before"
        return None

    def _continue(self, previous: Any) -> str | None:
        """Check that a new chain goes on where an earlier one ended."""
        if previous is None:
            if self._strict and self._heads:
                return "begins anew: nothing links it to the records before"
            return None
        if str(previous) in self._continued:
            return "repeated: another chain already goes on from the same record"
        self._continued.add(str(previous))
        if all(head.hash != previous for head in self._heads.values()):
            return "removed before it: the record that this chain goes on from is missing"
        return None


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, whatever is in it; one longer than any record comes out empty."""
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            line = b""
        yield line
