"""QueueSettings: where durable jobs are queued. A base of the server's and of the gateway's settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class QueueSettings(BaseModel):
    """None yet."""

    model_config = ConfigDict(use_attribute_docstrings=True)
