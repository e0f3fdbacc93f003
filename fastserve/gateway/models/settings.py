"""ModelsSettings: what the gateway is told about models that come and go. A base of GatewayConfig."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class ModelsSettings(BaseSettings):
    """None yet."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
