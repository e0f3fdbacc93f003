"""ConversationsSettings: what the gateway is told about conversations that it keeps. A base of GatewayConfig."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class ConversationsSettings(BaseSettings):
    """None yet."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
