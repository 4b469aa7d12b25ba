"""Every setting of the predictor: typed, bounded, documented, checked before a port opens.

Sources, first wins: command line, environment (`REALFAKE_`, nested with `__`), `.env`, the YAML
file named by REALFAKE_CONFIG_FILE, the defaults in `groups.py`.
"""

from predictor.settings.access import (
    AuditSettings,
    AuthSettings,
    RateLimitSettings,
    TlsSettings,
)
from predictor.settings.groups import (
    BatchingSettings,
    LimitSettings,
    ModelSettings,
    ServerSettings,
    TelemetrySettings,
)
from predictor.settings.loading import Resolved, effective, knobs, load_settings, resolve
from predictor.settings.root import Settings

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "BatchingSettings",
    "LimitSettings",
    "ModelSettings",
    "RateLimitSettings",
    "Resolved",
    "ServerSettings",
    "Settings",
    "TelemetrySettings",
    "TlsSettings",
    "effective",
    "knobs",
    "load_settings",
    "resolve",
]
