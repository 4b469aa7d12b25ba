"""Moving windows: what a caller has used in the last so many seconds, here or in a Redis.

Moving and not fixed or counted in two halves, because only then no stretch of that length, wherever
it begins, holds more than the rate.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from predictor.errors import SettingsError

_CONNECTIONS: Final = 32
_STEPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands after asking.

    Attributes:
        used: units within the window, those just admitted included.
        frees_in_s: seconds until some of them leave it.
        fits_in_s: seconds until what was refused would fit; None when it was admitted.
    """

    used: int
    frees_in_s: float
    fits_in_s: float | None = None


class Windows(Protocol):
    async def take(self, key: str, rate: RateLimitItem, cost: int) -> Standing:
        """Use `cost` units (at most the rate's amount) or, where they do not all fit, none."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Entry:
    first: float
    last: float
    cost: int


@dataclass(slots=True)
class _Window:
    entries: deque[_Entry] = field(default_factory=deque)
    used: int = 0


class LocalWindows:
    """Windows of this process.

    Not limits' own MemoryStorage: it walks all keys through a thread after each hit (1 ms of CPU
    with 100 keys), and believes the wall clock. Hits within a thousandth of the window are one
    entry that leaves with its last, so a window is small whatever the rate.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    async def take(self, key: str, rate: RateLimitItem, cost: int) -> Standing:
        return self.take_at(time.monotonic(), key, rate, cost)

    def take_at(self, now: float, key: str, rate: RateLimitItem, cost: int) -> Standing:
        length = rate.get_expiry()
        window = self._windows.setdefault(key, _Window())
        entries = window.entries
        while entries and now - entries[0].last >= length:
            window.used -= entries.popleft().cost
        fits_in_s = None
        if window.used + cost > rate.amount:
            # In this order, rounding cannot make it more than the window.
            fits_in_s = length - (now - _fits_at(window, rate.amount - cost))
        else:
            window.used += cost
            if entries and now - entries[-1].first < length / _STEPS:
                entries[-1].last = now
                entries[-1].cost += cost
            else:
                entries.append(_Entry(now, now, cost))
        return Standing(window.used, length - (now - entries[0].last), fits_in_s)

    async def close(self) -> None:
        """Nothing is held."""


def _fits_at(window: _Window, room: int) -> float:
    """The time of the entry with whose end at most `room` units are left."""
    left = window.used
    for entry in window.entries:
        left -= entry.cost
        if left <= room:
            return entry.last
    raise AssertionError("an empty window has room for the whole rate")


class RedisWindows:
    """Windows that all replicas share, exact as far as their clocks agree.

    Args:
        url_file: holds the URL, of scheme redis or rediss.
        prefix: in front of each key's name in the Redis.
        timeout_s: for each step of the way to the Redis.

    Raises:
        SettingsError: the file cannot be read, or holds no such URL.
    """

    def __init__(self, url_file: Path, *, prefix: str, timeout_s: float) -> None:
        url = _read_url(url_file)
        try:
            self._pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # whoever asks decides what a failure means
            )
            self._storage = RedisStorage(
                url,
                implementation="redispy",
                key_prefix=prefix,
                connection_pool=self._pool,  # type: ignore[arg-type]  # documented, not typed
            )
        except Exception:  # whatever it is, its text may quote the URL with its password
            raise _unusable(url_file) from None
        self._limiter = MovingWindowRateLimiter(self._storage)

    async def take(self, key: str, rate: RateLimitItem, cost: int) -> Standing:
        if await self._limiter.hit(rate, key, cost=cost):
            used, frees_in_s = await self._window(key, rate, rate.amount)
            return Standing(used, frees_in_s)
        # In the way is the oldest of the newest `amount - cost + 1` units.
        (used, frees_in_s), (_, fits_in_s) = await asyncio.gather(
            self._window(key, rate, rate.amount), self._window(key, rate, rate.amount - cost + 1)
        )
        return Standing(used, frees_in_s, fits_in_s)

    async def _window(self, key: str, rate: RateLimitItem, newest: int) -> tuple[int, float]:
        """Units in the window, of the `newest` ones, and seconds until the oldest of them ends."""
        length = rate.get_expiry()
        start, used = await self._storage.get_moving_window(rate.key_for(key), newest, length)
        return used, start + length - time.time() if used else 0.0

    async def close(self) -> None:
        await self._pool.aclose()


def _read_url(file: Path) -> str:
    try:
        url = file.read_text(encoding="utf-8").strip()
        parts = urlsplit(url)
        usable = parts.scheme in ("redis", "rediss") and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except OSError as error:
        raise SettingsError(
            f"rate_limit.redis_url_file: cannot read {file}: {error.strerror}; mount it there"
        ) from None
    except ValueError:
        usable = False
    if not usable:
        raise _unusable(file)
    return url


def _unusable(file: Path) -> SettingsError:
    return SettingsError(
        f"rate_limit.redis_url_file: {file} must hold one URL: redis://host:6379/0, "
        "rediss://user:password@host:6380/0 or the like"
    )
