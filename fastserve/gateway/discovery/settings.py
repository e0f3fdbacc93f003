"""DiscoverySettings: the names whose addresses are upstreams. A base of GatewayConfig."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve.gateway.config import places
from fastserve.server.config.forms import Words
from fastserve.server.config.ranges import Positive


def _urls(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        url = urlsplit(places.url_of(each))
        if url.scheme != "http" or url.path:
            raise ValueError(f"{each!r}: its addresses are asked by number: give http://NAME:PORT, without a path")
    return value


class DiscoverySettings(BaseSettings):
    """For clusters whose replicas come and go behind one name."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    discover: Annotated[Words, AfterValidator(_urls)] = ()
    """http://NAME:PORT of which every address is an upstream of its own (a headless Service); repeatable. They come and
    go as the name's addresses do"""
    discover_interval: Positive = 5.0
    """seconds between two look-ups of such names"""
