"""All groups of settings together."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from predictor.settings.access import (
    AuditSettings,
    AuthSettings,
    RateLimitSettings,
    TlsSettings,
)
from predictor.settings.groups import (
    BatchingSettings,
    DecodingSettings,
    LimitSettings,
    ModelSettings,
    ServerSettings,
    TelemetrySettings,
)
from predictor.settings.reference import ENV_PREFIX


class Settings(BaseSettings):
    """All settings. Build with `load_settings`; constructed directly it reads no source."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        # A text means the same in every source, so it is JSON in none.
        enable_decoding=False,
    )

    model: ModelSettings = ModelSettings()
    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    limits: LimitSettings = LimitSettings()
    batching: BatchingSettings = BatchingSettings()
    decoding: DecodingSettings = DecodingSettings()
    auth: AuthSettings = AuthSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    audit: AuditSettings = AuditSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
