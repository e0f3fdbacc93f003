"""PageSettings: what the gateway is told about its page. A base of GatewayConfig."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class PageSettings(BaseSettings):
    """None yet."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
