"""QueueSettings: where durable jobs are queued. A base of the server's and of the gateway's settings."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class QueueSettings(BaseSettings):
    """None yet."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)
