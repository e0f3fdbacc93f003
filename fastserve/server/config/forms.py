"""How values of settings are typed as text, and how they are shown."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr

from fastserve.sched.keywords import argument

CREDENTIALS = re.compile(r"://[^/\s@]*@")
"""User and password in a URL."""


def words(value: Any) -> Any:
    """A list, also written as text with commas."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def pairs(value: Any) -> Any:
    """A mapping, also written as KEY=VALUE: one, a list of them, or with commas. Values: numbers, booleans or text."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        return value
    return dict(argument(str(text)) for text in value)


def plain(value: Any) -> str:
    """A value as it is shown to people; secrets are masked."""
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return "none" if value is None else CREDENTIALS.sub("://********@", str(value))


Words = Annotated[tuple[str, ...], BeforeValidator(words)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(words)]
Knobs = Annotated[dict[str, Any], BeforeValidator(pairs)]
