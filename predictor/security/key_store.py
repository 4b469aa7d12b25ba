"""The keys in force: a directory of API keys that may change while the process runs."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from predictor.errors import SettingsError
from predictor.security.api_keys import ApiKeys, Key
from predictor.security.key_files import read_directory, signature
from predictor.security.watching import Watched

log = logging.getLogger("predictor.security")


class KeyStore(Watched[ApiKeys]):
    """Verifies against the last good version of a directory.

    An update that is unreadable, empty or partly bad changes nothing: a mistake in a Secret
    must not lock every caller out.

    Raises:
        SettingsError: no usable key at the start.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(
            "auth.keys_dir",
            partial(signature, directory),
            partial(read_directory, directory),
            _log_change,
        )
        if all(key.has_expired for key in self.value.keys):
            raise SettingsError(
                f"auth.keys_dir: every key in {directory} has expired; add one with "
                "`python -m predictor keys new`"
            )

    def verify(self, presented: bytes) -> Key:
        """Return the key that was presented.

        Raises:
            Unauthenticated: not known here, or expired.
        """
        return self.value.verify(presented)


def _log_change(old: ApiKeys, new: ApiKeys) -> None:
    log.info(
        "API keys changed",
        extra={
            "added": [key.name for key in new.keys if key not in old.keys],
            "removed": [key.name for key in old.keys if key not in new.keys],
        },
    )
