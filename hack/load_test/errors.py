"""Why a load test did not take place; each says the fix."""

from __future__ import annotations


class LoadTestError(Exception):
    """The command line cannot be carried out."""


class BadBound(LoadTestError):
    """`--require` cannot be read."""


class NoKey(LoadTestError):
    """The key's file cannot be read, or holds no key."""


class Unreachable(LoadTestError):
    """The first request got no good answer."""
