"""Names and written forms of settings: what other names a field has, and how values are typed as text."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from fastserve.backends.options import OTHER_NAMES as BACKEND_NAMES
from fastserve.sched.config import OTHER_NAMES
from fastserve.sched.keywords import argument

ALIASES: dict[str, str] = (
    OTHER_NAMES
    | BACKEND_NAMES
    | {
        "model_name": "model",
        "max_length": "max_model_len",
        "num_priority_queues": "num_queues",
        "api_keys": "api_key",
        "torch_dtype": "dtype",
        "cache_size": "kv_cache_gib",
    }
)
"""Other name -> field; on the command line, in the environment, in files and in Python alike."""


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
    return "none" if value is None else str(value)


def converted(name: str, value: Any) -> Any:
    """--cache-size is in MiB."""
    if name != "cache_size" or value is None:
        return value
    try:
        return float(value) / 1024
    except (TypeError, ValueError):
        raise ValueError(f"cache_size={value!r} is not a number of MiB") from None
