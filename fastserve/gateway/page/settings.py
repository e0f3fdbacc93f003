"""PageSettings: what the gateway is told about its page. A base of GatewayConfig."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PageSettings(BaseSettings):
    """The page is at / whatever these say."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # -- page
    page_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """a second port where all is served too, as people look for the page at 3000; 0 takes a free one"""
