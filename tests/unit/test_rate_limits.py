"""Rate limits inside one process: exact windows, honest waiting times, and a store that fails."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItem, parse

from predictor.errors import InvalidRequest, NotReady, RateLimited, SettingsError
from predictor.security import rate_limits
from predictor.security.rate_limits import RateLimits
from predictor.security.windows import LocalWindows, Standing
from predictor.settings import RateLimitSettings

HITS = st.lists(st.tuples(st.floats(0, 9, allow_nan=False), st.integers(1, 5)), max_size=80)


@given(HITS)
def test_no_stretch_of_a_window_holds_more_than_the_rate(hits: list[tuple[float, int]]) -> None:
    windows, rate, now = LocalWindows(), parse("5/4second"), 1000.0
    admitted: list[tuple[float, int]] = []
    for wait, cost in hits:
        now += wait / 3
        if windows.take_at(now, "web", rate, cost).fits_in_s is None:
            admitted.append((now, cost))
    for start, _ in admitted:
        assert sum(cost for at, cost in admitted if start <= at < start + 4) <= 5


@given(HITS, st.integers(1, 5))
def test_what_is_refused_fits_when_it_says_and_not_before(
    hits: list[tuple[float, int]], cost: int
) -> None:
    windows, rate, now = LocalWindows(), parse("5/4second"), 1000.0
    for wait, taken in hits:
        now += wait / 3
        windows.take_at(now, "web", rate, taken)
    refused = windows.take_at(now, "web", rate, cost)
    if refused.fits_in_s is None:
        return
    assert 0 < refused.frees_in_s <= refused.fits_in_s <= 4
    early = windows.take_at(now + refused.fits_in_s - 0.01, "web", rate, cost)
    # A hit within a thousandth of the window of another leaves with it.
    assert early.fits_in_s is not None
    again = windows.take_at(now + refused.fits_in_s + 0.001, "web", rate, cost)
    assert again.fits_in_s is None


def test_what_is_refused_uses_nothing() -> None:
    windows, rate = LocalWindows(), parse("5/second")
    windows.take_at(0.0, "web", rate, 3)
    for _ in range(10):
        assert windows.take_at(0.1, "web", rate, 3).fits_in_s is not None
    last = windows.take_at(0.1, "web", rate, 2)
    assert (last.used, last.fits_in_s) == (5, None)


def test_a_window_is_small_whatever_the_rate() -> None:
    """A list of every hit would take a megabyte, and be walked on the event loop."""
    windows, rate = LocalWindows(), parse("99999/minute")
    tracemalloc.start()
    for step in range(20_000):
        assert windows.take_at(step / 400, "web", rate, 1).fits_in_s is None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 250_000
    assert windows.take_at(50, "web", rate, 79_999).used == 99_999


def limits_of(**settings: object) -> RateLimits:
    limits = RateLimits.from_settings(RateLimitSettings.model_validate(settings), "realfake")
    assert limits is not None
    return limits


def test_nothing_is_limited_without_a_rate() -> None:
    assert RateLimits.from_settings(RateLimitSettings(), "realfake") is None


async def test_a_key_has_its_own_rate_and_its_own_window() -> None:
    limits = limits_of(rate="2/minute", rates={"batch": "3/minute"})
    for key, amount in (("web", 2), ("batch", 3), ("other", 2)):
        for used in range(1, amount + 1):
            allowance = await limits.take(key, 1)
            assert allowance is not None
            allowance.require()
            assert allowance.remaining == amount - used
        refused = await limits.take(key, 1)
        assert refused is not None
        with pytest.raises(RateLimited):
            refused.require()


async def test_a_key_that_no_rate_is_for_is_not_limited() -> None:
    limits = limits_of(rates={"batch": "1/minute"})
    assert [await limits.take("web", 5) for _ in range(3)] == [None] * 3
    assert [await limits.take(None, 5) for _ in range(3)] == [None] * 3


async def test_without_keys_everybody_shares_one_limit() -> None:
    limits = limits_of(rate="2/minute")
    allowances = [await limits.take(None, 1) for _ in range(3)]
    assert [allowance and allowance.remaining for allowance in allowances] == [1, 0, 0]
    assert allowances[2] is not None
    assert allowances[2].retry_after_s is not None


async def test_a_request_that_can_never_fit_is_told_so() -> None:
    with pytest.raises(InvalidRequest, match="at most 2 at once"):
        await limits_of(rate="2/minute").take("web", 3)


async def test_the_headers_are_those_of_the_draft() -> None:
    limits = limits_of(rate="5/10second")
    allowance = await limits.take("web", 2)
    assert allowance is not None
    assert allowance.headers() == {
        "ratelimit-policy": '"pictures";q=5;qu="pictures";w=10',
        "ratelimit": '"pictures";r=3;t=10',
    }
    refused = await limits.take("web", 4)
    assert refused is not None
    assert refused.retry_after_s is not None
    # The draft: Retry-After does not lie before the end of the effective window.
    assert refused.headers()["ratelimit"] == f'"pictures";r=3;t={math.ceil(refused.frees_in_s)}'
    assert refused.frees_in_s <= refused.retry_after_s <= 10.001


@pytest.mark.parametrize(
    "content",
    ["", "localhost", "http://host:1", "redis://", "redis://:secret-word@h:port", "redis://h:0"],
)
def test_a_url_that_is_none_stops_the_start_unseen(content: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(content)
    with pytest.raises(SettingsError, match="must hold one URL") as refused:
        limits_of(rate="1/second", redis_url_file=file)
    assert "secret-word" not in refused.value.message
    file.unlink()
    with pytest.raises(SettingsError, match="cannot read"):
        limits_of(rate="1/second", redis_url_file=file)


class Broken:
    """A store in a given state; counts how often it is asked."""

    def __init__(self, behave: Callable[[], None] | None) -> None:
        self.behave = behave
        self.asked = 0

    async def take(self, key: str, rate: RateLimitItem, cost: int) -> Standing:
        self.asked += 1
        if self.behave is None:
            await asyncio.Event().wait()
        else:
            self.behave()
        return Standing(cost, 1.0)

    async def close(self) -> None: ...


def refuse() -> None:
    raise ConnectionError("redis://:secret-word@host")


@pytest.mark.parametrize("behave", [refuse, None], ids=["fails", "hangs"])
@pytest.mark.parametrize("closed", [True, False])
async def test_a_store_that_fails_is_asked_once_and_costs_no_more(
    behave: Callable[[], None] | None, closed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken(behave)
    limits = RateLimits(store, parse("1/second"), {}, closed=closed, timeout_s=0.05)
    for _ in range(50):
        if closed:
            with pytest.raises(NotReady) as refused:
                await limits.take("web", 1)
            assert refused.value.retry_after_s == rate_limits.STORE_REST_S
        else:
            assert await limits.take("web", 1) is None
    assert store.asked == 1
    assert [record.message for record in caplog.records] == ["the rate limit's store failed"]
    assert "secret-word" not in caplog.text


async def test_a_store_that_comes_back_is_used_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rate_limits, "STORE_REST_S", 0.0)
    store = Broken(refuse)
    limits = RateLimits(store, parse("1/second"), {}, timeout_s=1.0)
    caplog.set_level("INFO")
    for _ in range(3):
        assert await limits.take("web", 1) is None
    store.behave = lambda: None
    for _ in range(2):
        assert await limits.take("web", 1) is not None
    assert (store.asked, limits.store_failures) == (5, 3)
    assert [record.message for record in caplog.records] == [
        "the rate limit's store failed",
        "the rate limit's store is back",
    ]
