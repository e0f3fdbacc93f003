"""ConversationsSettings: what the gateway is told about conversations that it keeps. A base of GatewayConfig."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve.jobqueue import redis_url

OFF, MEMORY = "off", "memory"


class ConversationsSettings(BaseSettings):
    """Conversations whose history the gateway keeps, for clients that send only the new turn."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    conversations: str | None = None
    """keep histories of chats in memory, in Redis (redis://HOST:PORT), or not at all (off); by default in memory and
    for requests with a session_id in their body alone. If given, X-Session-Id names a conversation too
    """
    conversation_ttl_seconds: Annotated[float, Field(gt=0, le=1e9)] = 3600.0
    """seconds after its last turn for which a conversation is kept"""
    conversation_max_turns: Annotated[int, Field(ge=1)] = 200
    """turns of a conversation; the oldest are cut"""
    conversation_max_kib: Annotated[float, Field(gt=0, le=1 << 20)] = 256.0
    """KiB of a conversation; its oldest turns are cut"""
    conversations_max_mib: Annotated[float, Field(gt=0, le=1 << 20)] = 256.0
    """MiB of all conversations; the longest unused goes"""

    @field_validator("conversations")
    @classmethod
    def _where(cls, value: str | None) -> str | None:
        if value is None or value in (OFF, MEMORY):
            return value
        if not value.startswith(("redis://", "rediss://")):  # not repeated: it may hold a password
            raise ValueError(f"it is neither {MEMORY}, {OFF} nor redis://HOST:PORT")
        return redis_url.checked(value)
