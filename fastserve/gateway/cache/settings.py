"""CacheSettings: what the gateway is told about its cache of answers. A base of GatewayConfig."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class CacheSettings(BaseSettings):
    """None yet."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
