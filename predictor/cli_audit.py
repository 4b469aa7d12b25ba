"""`python -m predictor audit`: check audit records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from predictor.errors import SettingsError

Command: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
AddCommand: TypeAlias = Callable[[Commands, str, Command, str], argparse.ArgumentParser]


def add(commands: Commands, add_command: AddCommand) -> None:
    """Add `audit` with its actions to the parser."""
    audit = commands.add_parser("audit", help="check audit records", allow_abbrev=False)
    actions = audit.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = add_command(
        actions, "verify", _verify, "find removed, reordered, altered or repeated audit records"
    )
    verify.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="several are read as one, in this order"
    )
    verify.add_argument(
        "--hmac-key-file", type=Path, metavar="FILE", help="what audit.hmac_key_file named"
    )
    verify.add_argument(
        "--strict",
        action="store_true",
        help="for the files of one replica: other lines, and a chain that begins anew, are wrong",
    )


def _verify(args: argparse.Namespace) -> int:
    """0 when all records are right, 1 when not, 2 when there are none or they cannot be read."""
    from predictor.security.audit_chain import read_key
    from predictor.security.audit_verify import Verifier, lines_of

    key = read_key(args.hmac_key_file, "--hmac-key-file")
    verifier = Verifier(key, strict=args.strict)
    report = verifier.report
    for path in args.files:
        try:
            with path.open("rb") as file:
                if not verifier.read(lines_of(file), str(path)):
                    break
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.problems:
        return 1
    if not report.records:
        raise SettingsError("no audit record in there")
    for head in verifier.heads:
        end = "ended" if head.ended else "not ended: still written, killed, or cut off here"
        print(f"chain {head.chain}: number 0 to {head.seq}, last hash {head.hash}, {end}")
    print(f"ok: {report.records} records; {report.others} other lines")
    return 0
