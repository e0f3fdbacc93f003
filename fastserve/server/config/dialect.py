"""Dialect: how the settings of one program are written in the environment, in files, and under other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def http_converted(name: str, value: Any) -> Any:
    """Values of keys that other servers write otherwise."""
    if name == "debug" and isinstance(value, bool):
        return "debug" if value else "info"
    return value


@dataclass(frozen=True, slots=True)
class Tree:
    """Keys of a settings file, of the `serving:` tree of other servers, beside the fields themselves."""

    keys: Mapping[str, str]
    """key -> field"""
    switches: Mapping[str, str] = field(default_factory=dict)
    """`GROUP.enabled`, which turns off a whole group -> the field that it sets as well, if any"""
    fixed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """key -> its only valid value, and the reason"""
    idle: Mapping[str, str] = field(default_factory=dict)
    """keys that are accepted without effect, or whole groups of them (`GROUP.`), and the reason"""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """switch -> settings of which it needs at least one to have an effect"""
    only: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """group (`GROUP.`) -> (field, value): it counts where this field has this value, and is silently left out else"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """program: in messages. prefix: of environment variables. aliases: other name -> field. plain: variables without
    the prefix -> field. others: variables with the prefix, without it, or beginnings of some (`NAME_`), that are not of
    this program. imports, code: settings whose value may be, or always is, code of a user's own. convert(name, value):
    a value given under an other name. idle: variables of other servers that change nothing -> why.
    """

    program: str
    prefix: str
    tree: Tree
    aliases: Mapping[str, str] = field(default_factory=dict)
    plain: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    convert: Callable[[str, Any], Any] = http_converted
    idle: Mapping[str, str] = field(default_factory=dict)


HTTP_KEYS: dict[str, str] = {
    "auth.tokens": "api_key",
    "auth.token_validation_url": "token_validation_url",
    "auth.required_scopes": "required_scopes",
    "rate_limiting.requests_per_minute": "requests_per_minute",
    "rate_limiting.tokens_per_minute": "tokens_per_minute",
    "rate_limiting.burst_allowance": "burst_allowance",
    "monitoring.metrics_endpoint": "metrics_endpoint",
    "debug": "log_level",
}
HTTP_SWITCHES = {"auth.enabled": "", "rate_limiting.enabled": "", "monitoring.enabled": "metrics"}
HTTP_FIXED: dict[str, tuple[Any, str]] = {
    "reload": (False, "settings and code are read at the start; start it anew instead"),
    "auth.auth_type": ("bearer_token", "the only kind of authentication is bearer_token"),
}
HTTP_NEEDS: dict[str, tuple[str, ...]] = {
    "auth.enabled": ("api_key", "api_key_file", "token_validation_url"),
    "rate_limiting.enabled": ("requests_per_minute", "tokens_per_minute", "burst_allowance"),
}
"""What files of all our HTTP servers may hold: see Tree."""
