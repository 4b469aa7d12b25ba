"""A user's deployment, and how to ask it by each protocol."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hack.load.grpc_caller import GrpcCaller, infer
from hack.load.http_caller import HttpCaller, post
from hack.load.samples import BROKEN, GOOD, UNANSWERED, Caller
from hack.load_test.errors import LoadTestError, NoKey, Unreachable

KEY_VARIABLE: Final = "API_KEY"
_TYPES: Final = {
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    **{".png": "image/png", ".webp": "image/webp"},
}


@dataclass(frozen=True, slots=True)
class Request:
    """Attributes: host: the name to ask for, where it is not the address's own."""

    model: str
    picture: Path
    api_key: str | None
    deadline_s: float | None
    ca_file: str | None
    host: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Attributes: name: as the report shows it; open: makes a caller, in the event loop."""

    name: str
    open: Callable[[], Caller]


def rest(url: str, request: Request) -> Target:
    """Raises: LoadTestError: it is no address, or the picture cannot be sent."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LoadTestError(f"--url: {url} is no address; write http://host:port or https://host")
    path = parts.path.rstrip("/") or f"/v2/models/{request.model}/infer"
    headers = {"Host": request.host or parts.netloc, "Content-Type": _type(request.picture)}
    if request.api_key:
        headers["X-API-Key"] = request.api_key
    if request.deadline_s:
        headers["X-Request-Timeout-Ms"] = f"{request.deadline_s * 1000:.0f}"
    message = post(path, _bytes(request.picture), headers)
    return Target(
        f"REST {parts.scheme}://{parts.netloc}{path}",
        lambda: HttpCaller(url, message, ca_file=request.ca_file),
    )


def grpc(address: str, request: Request, channels: int) -> Target:
    """Args: address: `host:port`, with TLS where it begins with `grpcs://`.

    Raises: LoadTestError: it is no address, or the picture cannot be read.
    """
    scheme, _, target = address.rpartition("://")
    if scheme not in ("", "grpc", "grpcs") or not target.rpartition(":")[2].isdigit():
        raise LoadTestError(
            f"--grpc: {address} is no address; write host:port or grpcs://host:port"
        )
    message = infer(request.model, _bytes(request.picture))

    def caller() -> Caller:
        return GrpcCaller(
            target,
            message,
            api_key=request.api_key,
            deadline_s=request.deadline_s,
            tls=scheme == "grpcs",
            ca_file=request.ca_file,
            authority=request.host,
            channels=channels,
        )

    return Target(f"gRPC {target}", caller)


async def check(target: Target, caller: Caller) -> None:
    """Ask once, before any load.

    Raises: Unreachable: there is no good answer, so that no load would measure anything.
    """
    answer = await caller.ask()
    if answer.code in GOOD:
        return
    if answer.code in (BROKEN, UNANSWERED):
        raise Unreachable(
            f"{target.name}: nobody answers there; check address, port, TLS and --ca-file"
        )
    fix = {
        **dict.fromkeys(("401", "UNAUTHENTICATED"), "give a key that it knows with --key-file"),
        **dict.fromkeys(("404", "NOT_FOUND", "UNIMPLEMENTED"), "check the path and --model"),
        **dict.fromkeys(("503", "UNAVAILABLE"), "wait until it is ready, and is not overloaded"),
        **dict.fromkeys(("504", "DEADLINE_EXCEEDED"), "give a longer --deadline-ms"),
    }.get(answer.code, "look at its log")
    raise Unreachable(f"{target.name}: the first request got {answer.code}; {fix}")


def read_key(file: Path | None) -> str | None:
    """From a file, else from API_KEY; never from the command line, which others can read.

    Raises: NoKey: the file cannot be read, or is empty.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise NoKey(
            f"--key-file: {file} cannot be read as a key; name a file that holds one"
        ) from None
    if not key or len(key.split()) != 1:
        raise NoKey(f"--key-file: {file} must hold one key and nothing else")
    return key


def _type(picture: Path) -> str:
    known = _TYPES
    if picture.suffix.lower() not in known:
        raise LoadTestError(f"--picture: {picture} must be named {', '.join(known)}")
    return known[picture.suffix.lower()]


def _bytes(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError:
        raise LoadTestError(f"--picture: {picture} cannot be read; name a picture file") from None
