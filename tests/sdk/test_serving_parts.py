"""The parts of the edge that need no server: routes, policy, bodies, JSON size."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from predictor.errors import (
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    Unauthenticated,
    UnsupportedMedia,
)
from predictor.inference.places import Places
from predictor.protocol.json_size import check_json_size
from predictor.security.api_keys import ApiKeys, Key
from predictor.serving.byte_budget import ByteBudget, Hold
from predictor.serving.call import Call
from predictor.serving.http import (
    ClientDisconnected,
    HttpRequest,
    HttpResponse,
    decompress,
    drain,
    read_body,
)
from predictor.serving.policy import Policy, request_id
from predictor.serving.routes import Route, Routes
from predictor.settings import LimitSettings


async def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"")


ROUTES = Routes(
    [
        Route("GET", "/v1/models/{model}", answer, ""),
        Route("POST", "/v1/models/{model}:predict", answer, ""),
        Route("GET", "/v2/models/{model}/versions/{version}", answer, ""),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("GET", "/v1/models/a", {"model": "a"}),
        ("HEAD", "/v1/models/a", {"model": "a"}),
        ("POST", "/v1/models/a:predict", {"model": "a"}),
        ("GET", "/v2/models/a/versions/2026.1", {"model": "a", "version": "2026.1"}),
    ],
)
def test_routes_find_their_parameters(method: str, path: str, params: dict[str, str]) -> None:
    match = ROUTES.match(method, path)
    assert match.route is not None
    assert match.params == params


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models/a/b", "/", ""])
def test_other_paths_are_nobodys(path: str) -> None:
    match = ROUTES.match("GET", path)
    assert match.route is None
    assert match.allowed == ()


def test_a_known_path_names_the_methods_it_has() -> None:
    assert ROUTES.match("DELETE", "/v1/models/a").allowed == ("GET",)


@pytest.mark.parametrize("offered", ["a", "A.b_c-9", "x" * 64])
def test_safe_request_ids_are_kept(offered: str) -> None:
    assert request_id(offered) == offered


@pytest.mark.parametrize("offered", [None, "", "x" * 65, "a b", "a\nb", "é", "\x1b[31m"])
def test_unsafe_request_ids_are_replaced(offered: str | None) -> None:
    made = request_id(offered)
    assert made != offered
    assert request_id(made) == made


KEY = b"rf_unit-tests-0123456789abcdef"


def policy(**limits: Any) -> Policy:
    import hashlib

    return Policy(ApiKeys((Key("unit", hashlib.sha256(KEY).digest()),)), LimitSettings(**limits))


@pytest.mark.parametrize("headers", [[(b"x-api-key", KEY)], [(b"Authorization", b"Bearer " + KEY)]])
def test_either_header_carries_the_key(headers: list[tuple[bytes, bytes]]) -> None:
    assert policy().authenticate(headers) == "unit"


def test_a_wrong_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(Unauthenticated) as refused:
        policy().authenticate([(b"x-api-key", b"rf_wrong-0123456789abcdefghi")])
    assert "wrong" not in refused.value.message


def test_the_shortest_deadline_wins_and_the_limit_caps_it() -> None:
    subject = policy(max_deadline_s=10)
    now = time.monotonic()
    assert 9 < subject.deadline(None) - now <= 10.5
    assert 9 < subject.deadline("60000", 60) - now <= 10.5
    assert 1 < subject.deadline("5000", 2) - now <= 2.5
    assert 1 < subject.deadline("2000", 5) - now <= 2.5


@pytest.mark.parametrize("header", ["0", "-1", "1.5", "soon", "", "1e3", "9" * 12, "٣"])
def test_a_timeout_that_is_no_number_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Timeout-Ms"):
        policy().deadline(header)


def test_places_are_given_back_whatever_happens() -> None:
    subject = policy(max_in_flight=1)
    call = Call("http", key_id="unit", deadline=time.monotonic() + 60)

    def fail_in_place() -> None:
        with subject.admit(call):
            with pytest.raises(Overloaded):
                subject.admit(call).__enter__()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_place()
    assert subject.in_flight == 0


class Messages:
    """An ASGI `receive` that plays back what a client sent, then says nothing."""

    def __init__(self, messages: Sequence[dict[str, Any]]) -> None:
        self._messages = list(messages)

    async def __call__(self) -> dict[str, Any]:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


def chunk(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def hold(limit: int = 1000) -> Hold:
    return Hold(Places(limit), caller=None)


async def test_a_body_in_pieces_is_put_together() -> None:
    receive = Messages([chunk(b"ab", True), chunk(b"", True), chunk(b"c")])
    assert await read_body(receive, limit=3, timeout_s=5, length=None, hold=hold()) == b"abc"


@pytest.mark.parametrize("length", [None, 2])
async def test_a_body_over_the_limit_is_refused(length: int | None) -> None:
    receive = Messages([chunk(b"ab", True), chunk(b"cd")])
    with pytest.raises(PayloadTooLarge, match=r"limits\.max_request_bytes"):
        await read_body(receive, limit=3, timeout_s=5, length=length, hold=hold())


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(PayloadTooLarge):
        await read_body(Messages([]), limit=3, timeout_s=5, length=4, hold=hold())


async def test_a_body_that_stops_coming_times_out() -> None:
    with pytest.raises(RequestTimeout, match=r"limits\.receive_timeout_s"):
        await read_body(
            Messages([chunk(b"a", True)]), limit=3, timeout_s=0.01, length=None, hold=hold()
        )


async def test_the_time_of_the_head_counts() -> None:
    with pytest.raises(RequestTimeout):
        await read_body(Messages([]), limit=3, timeout_s=600, taken_s=600, length=None, hold=hold())


async def test_a_caller_that_hangs_up_while_sending_is_gone() -> None:
    receive = Messages([chunk(b"a", True), {"type": "http.disconnect"}])
    with pytest.raises(ClientDisconnected):
        await read_body(receive, limit=3, timeout_s=5, length=None, hold=hold())


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, b"abc"),
        ("identity", b"abc"),
        ("gzip", gzip.compress(b"abc", mtime=0)),
        ("GZIP", gzip.compress(b"abc", mtime=0)),
        ("deflate", zlib.compress(b"abc")),
    ],
)
async def test_encodings_are_undone(encoding: str | None, body: bytes) -> None:
    assert await decompress(body, encoding, limit=3, hold=hold()) == b"abc"


@pytest.mark.parametrize(
    ("length", "messages"), [(101, []), (None, [chunk(b"x" * 60, True), chunk(b"x" * 60, True)])]
)
async def test_a_body_beyond_the_budget_is_refused(
    length: int | None, messages: list[dict[str, Any]]
) -> None:
    with pytest.raises(Overloaded, match=r"limits\.max_bytes_in_flight"):
        await read_body(
            Messages(messages), limit=500, timeout_s=5, length=length, hold=hold(limit=100)
        )


async def test_what_grows_beyond_the_budget_is_refused() -> None:
    body = gzip.compress(bytes(20_000_000))
    with pytest.raises(Overloaded, match=r"limits\.max_bytes_in_flight"):
        await decompress(body, "gzip", limit=30_000_000, hold=hold(limit=10_000_000))
    assert (
        len(await decompress(body, "gzip", limit=30_000_000, hold=hold(30_000_000))) == 20_000_000
    )


def test_a_budget_is_given_back_whole() -> None:
    budget = ByteBudget(100)
    with budget.hold() as first, budget.hold() as second:
        first.cover(60)
        first.cover(50)
        with pytest.raises(Overloaded):
            second.cover(41)
    assert budget.held == 0
    with budget.hold() as again:
        again.cover(100)


def test_a_caller_alone_holds_no_more_than_leaves_room_for_another() -> None:
    budget = ByteBudget(100)
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(budget.hold("flood")).cover(10)
        with pytest.raises(Overloaded):
            held.enter_context(budget.hold("flood")).cover(10)
        newcomer = held.enter_context(budget.hold("other"))
        for size in (5, 10, 15, 20):  # its own growth takes nobody's share
            newcomer.cover(size)
    assert budget.held == 0


async def test_an_encoding_nobody_named_is_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        await decompress(b"", "br", limit=3, hold=hold())


async def test_draining_stops_at_its_limit() -> None:
    endless = Messages([chunk(b"x" * 10, True)] * 100)
    await drain(endless, limit=50, timeout_s=5)
    assert len(endless._messages) == 95


async def test_draining_ends_with_the_callers_silence() -> None:
    await drain(Messages([chunk(b"x", True)]), limit=50, timeout_s=0.01)


@pytest.mark.parametrize("body", [b"1," * 100, b"[" * 40, b'{"a":' * 40])
def test_json_with_too_many_values_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match=r"limits\.max_json_values"):
        check_json_size(body, 100)


def test_a_picture_in_json_is_one_value() -> None:
    check_json_size(b'{"inputs":[{"data":["' + b"A" * 1_000_000 + b'"]}]}', 20)
