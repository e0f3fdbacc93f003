"""HttpSettings: settings that every HTTP server of ours has, and how all settings are read, shown and explained.

A server's own settings are a subclass, whose `dialect` says how they are written. Order of precedence: keyword
arguments (flags), environment, .env, the YAML file named by `config`, defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fastserve.server.config import addresses, forms, sources
from fastserve.server.config.dialect import Dialect
from fastserve.server.config.forms import Secrets, Words
from fastserve.server.config.ranges import Count, Positive, Seconds


class HttpSettings(BaseSettings):
    """Raises ValueError (ValidationError is one) for unknown names and invalid values. Frozen."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    dialect: ClassVar[Dialect]
    secret: ClassVar[tuple[str, ...]] = ("api_key",)
    """Settings whose value is shown nowhere."""

    # -- server
    config: Path | None = None
    """YAML file with settings"""
    dotenv_code: bool = False
    """let .env in the current folder name code: a policy of its own, a chat template, remote code (not from .env)"""
    host: str = "127.0.0.1"
    """address to listen at"""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """port to listen at; 0 takes a free one"""
    drain_seconds: Seconds = 30.0
    """after SIGTERM: seconds that running requests may take to end"""
    allowed_hosts: Words = ()
    """further names of this server, such as a proxy's: NAME, NAME:PORT, .NAME for all below it, "*" for any"""
    cors_origins: Words = ()
    """web pages elsewhere that may use this server, by origin (http://NAME:PORT); "*" for all; none by default"""
    root_path: str = ""
    """path below which a proxy shows this server, such as /llm (the proxy's X-Forwarded-Prefix says it too)"""
    forwarded_allow_ips: Words = ("127.0.0.1", "::1")
    """proxies whose X-Forwarded-* headers are believed: addresses or networks, "*" for any"""
    max_body_mib: Positive = 8.0
    """maximum request body, MiB"""
    max_body_items: Annotated[int, Field(ge=64)] = 16384
    """maximum strings, objects and lists in a request body"""
    max_header_kib: Positive = 32.0
    """maximum request line and headers, KiB"""
    max_headers: Count = 128
    """maximum headers of a request"""
    max_connections: Count = 2048
    """maximum open connections; a few more are kept for /ping and /health"""
    max_connections_per_address: Count = 1024
    """maximum open connections of one address"""
    header_timeout: Positive = 10.0
    """seconds in which the headers of a request must have arrived"""
    body_timeout: Positive = 60.0
    """seconds in which its body must have arrived"""
    stall_timeout: Positive = 60.0
    """seconds after which a client that does not read its response is disconnected"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """minimum severity of log lines"""
    log_format: Literal["text", "json"] = "text"
    """format of log lines"""

    # -- authentication and limits
    api_key: Secrets = ()
    """bearer token, or "TOKEN CLIENT" to name its client ("*" for a gateway's, which says whose a request is);
    repeatable. Any token switches auth on. On the command line other users of the machine can read it (ps):
    api_key_file is for that"""
    api_key_file: Path | None = None
    """file with one TOKEN [CLIENT] a line; mode 0600 keeps it from others"""
    token_validation_url: str | None = None
    """OAuth introspection endpoint (RFC 7662) for tokens that are not listed here"""
    required_scopes: Words = ()
    """scopes that an introspected token must have"""
    requests_per_minute: Count | None = None
    """requests per minute and client"""
    tokens_per_minute: Count | None = None
    """prompt and output tokens per minute and client"""
    burst_allowance: Count | None = None
    """requests per second and client"""

    # -- monitoring
    metrics: bool = True
    """serve Prometheus metrics"""
    metrics_endpoint: str = "/metrics"
    """path of the metrics endpoint"""

    def __init__(self, **values: Any) -> None:
        super().__init__(**sources.named(values, type(self).model_fields, self.dialect))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            sources.Source(settings_cls, sources.environment, cls.dialect),
            sources.Source(settings_cls, sources.dotenv, cls.dialect),
            sources.Source(settings_cls, sources.file, cls.dialect),
        )

    @field_validator("api_key")
    @classmethod
    def _tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(secret.get_secret_value().strip() for secret in value):
            raise ValueError('a token is empty: give TOKEN or "TOKEN CLIENT"; leave it out to disable authentication')
        return value

    @field_validator("allowed_hosts", "cors_origins", "forwarded_allow_ips")
    @classmethod
    def _each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple([word for text in value for word in forms.words(text)])

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple([addresses.origin(text) for text in value])

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple([addresses.host_name(text) for text in value])

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        addresses.networks(value)
        return value

    @field_validator("token_validation_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else addresses.url(value)

    @field_validator("root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        return addresses.root_path(value)

    @field_validator("metrics_endpoint")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or len(value) < 2:
            raise ValueError(f"{value!r} must be a path such as /metrics")
        return value

    def shown(self, flags: dict[str, Any] | None = None) -> list[tuple[str, str, str]]:
        """(name, value, where it came from) of every setting, secrets masked. flags: as given to the constructor."""
        came = self.came_from(flags or {})
        fields = type(self).model_fields
        return [(name, forms.plain(getattr(self, name)), came.get(name, "default")) for name in fields]

    def strays(self) -> list[str]:
        """Warnings: variables that are no settings, keys of the file that change nothing."""
        return sources.strays(type(self).model_fields, self.dialect, self.config)

    @classmethod
    def came_from(cls, flags: dict[str, Any]) -> dict[str, str]:
        """Field -> the source of its value, as text; fields at their defaults are absent. flags: as given."""
        known = cls.model_fields
        return sources.origins(sources.named(flags, known, cls.dialect), known, cls.dialect)

    @classmethod
    def explain(cls, error: ValueError, flags: dict[str, Any] | None = None) -> str:
        """Validation errors as one line: setting, what is wrong, and the source of the value."""
        if not isinstance(error, ValidationError):
            return str(error)
        came = cls.came_from(flags or {})
        lines = []
        for fault in error.errors(include_url=False, include_context=False):
            what = fault["msg"].removeprefix("Value error, ")
            told = re.match(r"(\w+)=", what)  # what an engine refuses begins with the setting
            name = str(fault["loc"][0]) if fault["loc"] else ""
            value = fault["input"]
            shows = isinstance(value, (str, int, float)) and len(str(value)) < 80 and name not in cls.secret
            given = (f"{name}={value}: " if shows else f"{name}: ") if name else ""
            cause = name or (told.group(1) if told else "")
            source = f" (from {came[cause]})" if came.get(cause, "argument") != "argument" else ""
            lines.append(f"{given}{what[:1].lower()}{what[1:]}{source}")
        return "; ".join(lines)
