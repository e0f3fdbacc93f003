"""GatewayConfig: all settings of the gateway, from flags, environment, .env and YAML; how: see HttpSettings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from fastserve.gateway.cache.settings import CacheSettings
from fastserve.gateway.config import places
from fastserve.gateway.config.dialect import GATEWAY
from fastserve.gateway.conversations.settings import ConversationsSettings
from fastserve.gateway.discovery.settings import DiscoverySettings
from fastserve.gateway.models.settings import ModelsSettings
from fastserve.gateway.page.settings import PageSettings
from fastserve.jobqueue.settings import QueueSettings
from fastserve.routers.spec import RouterSpec
from fastserve.server.config.dialect import Dialect
from fastserve.server.config.forms import Knobs, Words
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.config.ranges import Positive, Seconds


def upstreams(value: Any) -> Any:
    """A list of upstreams, also written as one text; an item may be a mapping, as `instances` has them in files."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    found: list[str] = []
    for each in value:
        found += [_instance(each)] if isinstance(each, Mapping) else places.split(str(each))
    return tuple(found)


def _instance(given: Mapping[str, Any]) -> str:
    """{host, port, weight, ...} as an upstream is written."""
    rest = dict(given)
    url = rest.pop("url", None)
    if url is None:
        host, port = rest.pop("host", None), rest.pop("port", 8000)
        if not host:
            raise ValueError(f"an instance needs a host (or a url): {dict(given)}")
        url = f"http://{host}:{port}"
    models = rest.pop("models", rest.pop("model", ()))
    options = [f"model={model}" for model in ([models] if isinstance(models, str) else models)]
    return ",".join([str(url), *[f"{name}={value}" for name, value in rest.items()], *options])


class CoreSettings(HttpSettings):
    """Upstreams and what is done with them. Times in seconds."""

    # -- upstreams
    upstream: Annotated[tuple[str, ...], BeforeValidator(upstreams)] = ()
    """a server to send requests to; repeatable. It is asked for its kind, and for its models where none is given;
    key_env: the variable of the environment that has its bearer token"""
    upstream_key: SecretStr | None = None
    """bearer token for upstreams without a key_env of their own; better in the environment, which ps does not show"""
    router: str = "least-connections"
    """which upstream gets a request: a shipped router, or your own as module:Class or ./file.py:Class"""
    router_set: Knobs = Field(default_factory=dict)
    """settings of the router, KEY=VALUE"""
    route_log: Path | None = None
    """write what the router saw and chose here, as JSON lines, which `python -m sim.replay_log` runs again"""
    seed: int = 0
    """seed of routers that draw lots"""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    """how often a request is sent again, elsewhere where it can, while no byte of an answer has come"""
    keep_mib: Positive = 512.0
    """MiB of memory for requests on their way; more are refused with 503"""
    connect_timeout: Positive = 5.0
    """seconds for a connection to an upstream"""
    request_timeout: Seconds = 600.0
    """seconds from arrival to the end, 0 for no limit"""
    silence_timeout: Positive = 600.0
    """seconds for which an upstream may say nothing to a request"""
    health_check: bool = True
    """ask upstreams for their health"""
    health_interval: Positive = 10.0
    """seconds between two checks of an upstream"""
    health_timeout: Positive = 5.0
    """seconds for a check"""
    health_retries: Annotated[int, Field(ge=1, le=100)] = 3
    """checks that fail in a row until an upstream counts as failing; one that fails a request is checked at once"""
    view_interval: Positive = 0.5
    """seconds between two looks at an upstream's load"""
    cooldown: Positive = 1.0
    """seconds for which a failing upstream gets no request, doubled with each failure in a row"""
    cooldown_most: Positive = 30.0
    """the longest such time"""
    admin_clients: Words = ()
    """with tokens, clients that may change upstreams and models (without tokens everybody may)"""
    wait_for_upstreams: Seconds = 0.0
    """seconds that the start waits until every upstream is there; then the gateway serves anyhow"""


class GatewayConfig(
    PageSettings, QueueSettings, CacheSettings, ConversationsSettings, ModelsSettings, DiscoverySettings, CoreSettings
):  # fmt: skip
    """Raises ValueError (ValidationError is one) for unknown names, invalid values, and conflicting settings."""

    dialect: ClassVar[Dialect] = GATEWAY
    secret: ClassVar[tuple[str, ...]] = (
        "api_key", "upstream", "upstream_key", "discover", "queue", "cache", "conversations"
    )  # fmt: skip

    @field_validator("upstream")
    @classmethod
    def _places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            places.parse(each)
        return value

    @field_validator("upstream_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else places.key_text(value)

    @model_validator(mode="after")
    def _router(self) -> GatewayConfig:
        self.router_spec().check()
        return self

    def router_spec(self) -> RouterSpec:
        return RouterSpec(self.router, self.router_set)

    def places(self) -> list[places.Place]:
        """The upstreams to begin with."""
        return [places.parse(each) for each in self.upstream]
