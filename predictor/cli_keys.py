"""`python -m predictor keys`: make, hash and recognise API keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from getpass import getpass
from pathlib import Path
from typing import TypeAlias

from predictor.errors import SettingsError
from predictor.security import api_keys, key_files

Command: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
AddCommand: TypeAlias = Callable[[Commands, str, Command, str], argparse.ArgumentParser]


def add(commands: Commands, add_command: AddCommand) -> None:
    """Add `keys` with its actions to the parser."""
    keys = commands.add_parser("keys", help="make and check API keys", allow_abbrev=False)
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = add_command(actions, "new", _new, "print a new API key")
    new.add_argument(
        "--id",
        metavar="ID[.N]",
        help="who will use it, shown in logs and metrics; .N for another key of the same ID",
    )
    new.add_argument("--dir", type=Path, help="also write it to DIR/ID, readable by you only")
    hashed = add_command(
        actions, "hash", _hash, "print what a Secret may hold instead of the key on stdin"
    )
    for action in (new, hashed):
        action.add_argument(
            "--expires", metavar="TIME", help="when it ends, such as 2027-01-31T00:00:00Z"
        )
    verify = add_command(actions, "verify", _verify, "say which key of DIR the key on stdin is")
    verify.add_argument("dir", type=Path, metavar="DIR")


def _new(args: argparse.Namespace) -> int:
    expires = _expiry(args.expires)
    key = api_keys.generate()
    if args.dir is not None:
        if args.id is None:
            raise SettingsError("--dir needs --id: the file's name is the key's id")
        path = key_files.store(key, args.dir, args.id, expires)
        print(f"wrote {path}", file=sys.stderr)
    hashed = key_files.format_file(f"sha256:{api_keys.digest_of(key)}", expires)
    print(f"a Secret may hold this instead of the key:\n{hashed}", end="", file=sys.stderr)
    print(key)
    return 0


def _hash(args: argparse.Namespace) -> int:
    expires = _expiry(args.expires)
    try:
        digest = api_keys.digest_of(_read_key())
    except ValueError as error:
        raise SettingsError(f"the key on stdin: {error}") from None
    print(key_files.format_file(f"sha256:{digest}", expires), end="")
    return 0


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        expires = key_files.parse_time(text)
    except ValueError as error:
        raise SettingsError(f"--expires: {error}") from None
    if expires <= datetime.now(UTC):
        raise SettingsError("--expires: that time has passed; name one to come")
    return expires


def _verify(args: argparse.Namespace) -> int:
    keys = key_files.read_directory(args.dir)
    key = _read_key()
    found = keys.find(key.encode("utf-8", "surrogateescape"))
    if found is not None:
        words = [found.id]
        if found.generation:
            words.append(f"generation={found.generation}")
        if found.expires is not None:
            words.append(f"expires={key_files.format_time(found.expires)}")
        if found.has_expired:
            print(f"realfake: this key has expired: {' '.join(words)}", file=sys.stderr)
            return 1
        print(*words)
        return 0
    cut = key.startswith(api_keys.PREFIX) and not api_keys.is_well_formed(key)
    reason = "its checksum is wrong: cut or mistyped in copying" if cut else "it is none of these"
    print(f"realfake: not a key in {args.dir}: {reason}", file=sys.stderr)
    return 1


def _read_key() -> str:
    """The key from stdin: arguments end up in shell histories and process lists."""
    return getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
