"""ConversationsSettings: what the gateway is told about conversations that it keeps. A base of GatewayConfig."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

OFF, MEMORY = "off", "memory"
SCHEMES = ("redis://", "rediss://", "unix://")


class ConversationsSettings(BaseModel):
    """Conversations whose history the gateway keeps, for clients that send only the new turn."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    conversations: str | None = None
    """keep histories of chats in memory, in Redis (redis://HOST:PORT/DB), or not at all (off); by default in memory and
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
        if value is None or value in (OFF, MEMORY) or value.startswith(SCHEMES):
            return value
        raise ValueError(f"{value[:40]!r} is neither {MEMORY}, {OFF} nor an address as redis://127.0.0.1:6379/0")
