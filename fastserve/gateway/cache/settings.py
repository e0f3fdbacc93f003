"""CacheSettings: what the gateway is told about its cache of answers. A base of GatewayConfig."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve.jobqueue import redis_url
from fastserve.sched.checks import LONGEST_S

KINDS = ("memory", "disk", "redis")
LOCAL = "redis://127.0.0.1:6379"
"""What `redis` alone means."""

SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE)
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def kind(value: str) -> str:
    """Raises ValueError."""
    if value in KINDS:
        return value
    if not value.startswith(("redis://", "rediss://")):
        raise ValueError(f"it is none of {', '.join(KINDS)}, nor redis://HOST:PORT")
    return redis_url.checked(value)


def size(value: Any) -> Any:
    """Bytes of 1GB, 512MB, 64MiB or a number; one unit is 1024 times the smaller one. Raises ValueError."""
    if not isinstance(value, str):
        return value
    found = SIZE.fullmatch(value)
    if not found:
        raise ValueError(f"{value!r} is no size: write 1GB, 512MB, or a number of bytes")
    return round(float(found[1]) * 1024 ** POWERS[found[2].upper()])


class CacheSettings(BaseSettings):
    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # -- cache of answers
    cache: Annotated[str, AfterValidator(kind)] | None = None
    """keep answers of deterministic requests in memory, disk or redis://HOST:PORT (redis alone: on this machine), and
    answer exact repetitions from there"""
    cache_size: Annotated[int, BeforeValidator(size), Field(ge=1 << 16, lt=1 << 50)] = 1 << 30
    """bytes that it may hold, such as 512MB or 1GB"""
    cache_ttl: Annotated[float, Field(ge=1, le=LONGEST_S, allow_inf_nan=False)] = 3600.0
    """seconds for which an answer is kept"""
    cache_scope: Literal["client", "shared"] = "client"
    """who gets a kept answer: the client who asked first, or any client"""
    cache_dir: Path | None = None
    """folder of the cache on disk (by default in the user's cache folder); several gateways may share it"""
