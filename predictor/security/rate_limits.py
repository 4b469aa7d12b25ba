"""How many pictures each caller may send in a time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from limits import RateLimitItem, parse

from predictor.errors import InvalidRequest, NotReady, RateLimited
from predictor.security.circuit import Circuit
from predictor.security.windows import LocalWindows, RedisWindows, Standing, Windows
from predictor.settings import RateLimitSettings

log = logging.getLogger("predictor.rate_limits")

STORE_REST_S: Final = 1.0
_EVERYBODY: Final = "everybody"
"""Who is limited where there are no keys to tell callers apart."""
_MARGIN_S: Final = 0.001
"""On top of a time to wait: units leave the window just after its end, not at it."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has left after its request.

    Attributes:
        remaining: pictures it may still send.
        frees_in_s: seconds until that may grow.
        retry_after_s: seconds until a request like this one would fit; None when it did.
    """

    rate: RateLimitItem
    remaining: int
    frees_in_s: float
    retry_after_s: float | None = None

    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-11, names in lower case."""
        policy = f'"pictures";q={self.rate.amount};qu="pictures";w={self.rate.get_expiry()}'
        left = f'"pictures";r={self.remaining};t={math.ceil(self.frees_in_s)}'
        return {"ratelimit-policy": policy, "ratelimit": left}

    def require(self) -> None:
        """Go on only if the request was admitted.

        Raises:
            RateLimited: it was not.
        """
        if self.retry_after_s is not None:
            raise RateLimited(
                f"more pictures than {self.rate.amount} in {self.rate.get_expiry()} s, of which "
                f"{self.remaining} are left; wait {math.ceil(self.retry_after_s)} s or send fewer",
                retry_after_s=self.retry_after_s,
            )


class RateLimits:
    """One instance per process, shared by all protocols; lives on the event loop.

    Args:
        default: for keys that `rates` does not name; None leaves them without limit.
        closed: refuse while the windows cannot be asked, instead of going on without limits.
        timeout_s: how long to wait for the windows.
    """

    def __init__(
        self,
        windows: Windows,
        default: RateLimitItem | None,
        rates: Mapping[str, RateLimitItem],
        *,
        closed: bool = False,
        timeout_s: float = 1.0,
    ) -> None:
        self._windows = windows
        self._default = default
        self._rates = rates
        self._closed = closed
        self._timeout_s = timeout_s
        self._circuit = Circuit(STORE_REST_S)
        self.store_failures = 0

    @classmethod
    def from_settings(cls, settings: RateLimitSettings, model_name: str) -> RateLimits | None:
        """Build what the settings ask for; None where nothing is limited.

        Raises:
            SettingsError: the Redis' URL cannot be used.
        """
        if settings.rate is None and not settings.rates:
            return None
        timeout_s = settings.store_timeout_ms / 1000
        windows: Windows = LocalWindows()
        if settings.redis_url_file is not None:
            windows = RedisWindows(
                settings.redis_url_file, prefix=f"realfake:{model_name}", timeout_s=timeout_s
            )
        return cls(
            windows,
            None if settings.rate is None else parse(settings.rate),
            {key_id: parse(rate) for key_id, rate in settings.rates.items()},
            closed=settings.on_store_failure == "closed",
            timeout_s=timeout_s,
        )

    async def take(self, key_id: str | None, pictures: int) -> Allowance | None:
        """Count a request's pictures against its caller's rate: all of them or, over it, none.

        Returns:
            None where nothing is limited, or not for now.

        Raises:
            InvalidRequest: more pictures than the caller may ever send at once.
            NotReady: the windows cannot be asked, and that is to refuse.
        """
        rate = self._rates.get(key_id or _EVERYBODY, self._default)
        if rate is None:
            return None
        if pictures > rate.amount:
            raise InvalidRequest(
                f"{pictures} pictures in one request; the rate limit is {rate.amount} in "
                f"{rate.get_expiry()} s, so send at most {rate.amount} at once"
            )
        standing = await self._ask(key_id or _EVERYBODY, rate, pictures)
        if standing is None:
            return None
        wait_s = standing.fits_in_s
        return Allowance(
            rate,
            max(0, rate.amount - standing.used),
            max(0.0, standing.frees_in_s),
            None if wait_s is None else max(0.0, wait_s) + _MARGIN_S,
        )

    async def close(self) -> None:
        await self._windows.close()

    async def _ask(self, key: str, rate: RateLimitItem, cost: int) -> Standing | None:
        if self._circuit.may_try():
            try:
                async with asyncio.timeout(self._timeout_s):
                    standing = await self._windows.take(key, rate, cost)
            except Exception as error:  # a store fails in the ways of its client, timeouts included
                self._note_failure(error)
            else:
                if self._circuit.succeeded():
                    log.info("the rate limit's store is back")
                return standing
        if self._closed:
            raise NotReady(
                "the rate limit cannot be checked now; retry shortly", retry_after_s=STORE_REST_S
            )
        return None

    def _note_failure(self, error: Exception) -> None:
        self.store_failures += 1
        if self._circuit.failed():
            log.error(
                "the rate limit's store failed",
                extra={
                    "error_type": type(error).__name__,
                    "effect": "inference is refused" if self._closed else "nothing is limited",
                },
            )
