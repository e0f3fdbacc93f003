"""FastServeConfig: all settings of the server, from flags, environment, .env and YAML.

Order of precedence: keyword arguments (flags), environment, .env, the YAML file named by `config`, defaults.
sources.py reads them; this module has names, defaults, help and validation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fastserve import backends
from fastserve.backends.options import OLLAMA_MODEL, SECRETS, USE_OLLAMA, expanded
from fastserve.engine.config import POLICY, EngineConfig
from fastserve.named_models import EMBEDDED, PACKAGED
from fastserve.policies.spec import PolicySpec
from fastserve.sched.checks import LONGEST_S, MOST
from fastserve.server.config import addresses, aliases, sources
from fastserve.server.config.derived import ENGINE, derived, with_options
from fastserve.server.config.named_code import is_true
from fastserve.server.config.ranges import Count, Positive, Seconds, Share, Tokens

Words = Annotated[tuple[str, ...], BeforeValidator(aliases.words)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(aliases.words)]
Knobs = Annotated[dict[str, Any], BeforeValidator(aliases.pairs)]
SECRET = ("api_key", "hf_token", *SECRETS)


class First(BaseSettings):
    """Settings of the model."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    # -- model
    model: Annotated[str, Field(min_length=1)] = EMBEDDED
    """model: a Hugging Face id, a folder, a .gguf file (of the hub: REPO:FILE), embedded or smollm2"""
    served_model_name: str | None = None
    """name that clients use (by default as given to --model)"""
    backend: str = "torch"
    """backend: torch, llamacpp, onnx, upstream (in front of another server), scripted (a modelled machine, no model),
    or your own as module:Class or ./file.py:Class"""
    use_ollama: Annotated[bool, Field(description=USE_OLLAMA)] = False
    ollama_model: Annotated[str | None, Field(description=OLLAMA_MODEL)] = None
    hf_token: SecretStr | None = None
    """token for gated models; better as the environment's HF_TOKEN, which ps does not show"""
    chat_template: str | None = None
    """a Jinja file, or the template itself, instead of the tokenizer's"""


if TYPE_CHECKING:

    class Second(First):
        """With the options of backends."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Second = with_options("Second", First)


class Third(Second):
    """And the policy."""

    # -- scheduler; names mean what they mean in `python -m sim`
    policy: str = POLICY.name
    """scheduling policy: a shipped one, or your own as module:Class or ./file.py:Class"""
    set: Knobs = Field(default_factory=dict)
    """settings of the policy, KEY=VALUE"""
    num_queues: Count | None = None
    """levels of a policy that has levels"""


if TYPE_CHECKING:

    class Fourth(Third):
        """With the settings of an engine: see derived.ENGINE."""

else:
    Fourth = derived("Fourth", Third, ENGINE)


class FastServeConfig(Fourth):
    """Raises ValueError (ValidationError is one) for unknown names, invalid values, and conflicting settings.

    Frozen: a running server does not change.
    """

    kv_cache_gib: Positive | None = None
    """device KV pool in GiB, instead of --kv-tokens"""
    host_cache_gib: Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)] | None = None
    """host KV pool in GiB, instead of --host-tokens"""
    latency: str | None = None
    """latency model for the policy: a preset or a JSON file (by default measured at load)"""
    timeline: Path | None = None
    """write a Chrome trace of slots, preemptions and copies here, for ui.perfetto.dev, while the server runs"""
    iterations: Path | None = None
    """write a row per iteration here (CSV), while the server runs"""
    observer: Words = ()
    """your own observers, module:Class or ./file.py:Class; repeatable"""

    # -- server
    config: Path | None = None
    """YAML file with settings"""
    dotenv_code: bool = False
    """let .env in the current folder name code: a policy of its own, a chat template, remote code (not from .env)"""
    host: str = "127.0.0.1"
    """address to listen at"""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """port to listen at; 0 takes a free one"""
    workers: int = 1
    """always 1: one engine a process"""
    queue_capacity: Annotated[int, Field(ge=0, le=MOST)] = 1000
    """maximum waiting requests; more are refused with 503, to bound memory (an engine has no bound)"""
    request_timeout: Seconds = 600.0
    """seconds from arrival to the end, 0 for no limit; jobs sent to /jobs have none"""
    drain_seconds: Seconds = 30.0
    """after SIGTERM: seconds that running requests may take to end"""
    state_dir: Path | None = None
    """where durable jobs are kept (by default the user's state folder, by port)"""
    keep_jobs: Count = 10_000
    """maximum finished jobs that are kept"""
    keep_hours: Positive = 24.0
    """hours for which finished jobs are kept, counted while a server runs"""
    keep_mib: Positive = 512.0
    """MiB of memory for requests and finished jobs: prompts, metadata, results; the oldest finished ones go first"""
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

    # -- request defaults (native routes only)
    max_new_tokens: Tokens = 100
    """output tokens"""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.7
    """sampling temperature (of smollm2: 0)"""
    top_p: Share = 0.9
    """nucleus sampling"""
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] = 50
    """sample from the k likeliest tokens; 0 is all"""

    # -- authentication and limits
    api_key: Secrets = ()
    """bearer token, or "TOKEN CLIENT" to name its client; repeatable. Any token switches auth on. On the command line
    other users of the machine can read it (ps): api_key_file is for that"""
    api_key_file: Path | None = None
    """file with one TOKEN [CLIENT] a line; mode 0600 keeps it from others"""
    token_validation_url: str | None = None
    """OAuth introspection endpoint (RFC 7662) for tokens that are not listed here"""
    required_scopes: Words = ()
    """scopes that an introspected token must have"""
    share_prefixes: Literal["client", "all"] = "client"
    """with tokens, whose prompts share KV: each client's among themselves, or all (then a client can find out, by time
    and by cached_tokens, what others have asked, unless its requests bring a cache_salt)"""
    admin_clients: Words = ()
    """with tokens, clients that may empty the prefix cache for all (without tokens everybody may)"""
    requests_per_minute: Count | None = None
    """requests per minute and client"""
    tokens_per_minute: Count | None = None
    """prompt and output tokens per minute and client"""
    burst_allowance: Count | None = None
    """requests per second and client"""
    max_prompt_length: Tokens | None = None
    """maximum prompt tokens of a request"""
    max_tokens: Tokens | None = None
    """maximum output tokens of a request"""

    # -- monitoring
    metrics: bool = True
    """serve Prometheus metrics"""
    metrics_endpoint: str = "/metrics"
    """path of the metrics endpoint"""
    alert_error_rate: Share | None = None
    """warn when more than this share of recent requests failed"""
    alert_latency_p99: Positive | None = None
    """warn when the 99th percentile of completion times exceeds this, in seconds"""
    alert_gpu_memory_usage: Share | None = None
    """warn when more than this share of device memory is in use"""

    def __init__(self, **values: Any) -> None:
        super().__init__(**sources.named(values, type(self).model_fields))

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
            sources.Source(settings_cls, sources.environment),
            sources.Source(settings_cls, sources.dotenv),
            sources.Source(settings_cls, sources.file),
        )

    @field_validator("backend")
    @classmethod
    def _backend(cls, value: str) -> str:
        return backends.checked(value)

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        return value if re.fullmatch(r"cuda:\d+", value) else _one_of(value, ("auto", "cuda", "cuda:1", "mps", "cpu"))

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, value: str) -> str:
        short = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
        value = short.get(name := value.removeprefix("torch."), name)
        return _one_of(value, ("auto", "float32", "bfloat16", "float16"))

    @field_validator("api_key")
    @classmethod
    def _tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(secret.get_secret_value().strip() for secret in value):
            raise ValueError('a token is empty: give TOKEN or "TOKEN CLIENT"; leave it out to disable authentication')
        return value

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int) -> int:
        if value != 1:
            raise ValueError(
                "one process holds one engine and one scheduler, so there is one worker; for more, run several "
                "servers on ports of their own behind a load balancer"
            )
        return value

    @field_validator("allowed_hosts", "cors_origins", "forwarded_allow_ips")
    @classmethod
    def _each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple([word for text in value for word in aliases.words(text)])

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

    @model_validator(mode="before")
    @classmethod
    def _ollama(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the short forms stand for; they stay as they were given."""
        wanted = is_true(values.get("use_ollama", "ollama_model" in values))
        return values | expanded({**values, "use_ollama": wanted})

    @model_validator(mode="after")
    def _together(self) -> FastServeConfig:
        for tokens, gib in (("kv_tokens", "kv_cache_gib"), ("host_tokens", "host_cache_gib")):
            if getattr(self, tokens) is not None and getattr(self, gib) is not None:
                raise ValueError(f"give {tokens} or {gib}, not both: they size the same pool")
        if self.num_queues is not None and "levels" not in PolicySpec(self.policy).settings:
            raise ValueError(f"num_queues={self.num_queues}: policy {self.policy} has no levels; mlfq and sj-mlfq have")
        self.engine()  # what the engine would refuse is known before its model is loaded
        return self

    @property
    def knobs(self) -> dict[str, Any]:
        """The policy's settings, num_queues among them."""
        return self.set if self.num_queues is None else {**self.set, "levels": self.num_queues}

    def engine(self, **changes: Any) -> EngineConfig:
        """The engine's settings, with some changed. Raises ValueError."""
        own = {name: getattr(self, name) for name in (*ENGINE, "queue_capacity")}
        return EngineConfig.of(own | {"policy": PolicySpec(self.policy, self.knobs)} | changes)

    @property
    def usual_temperature(self) -> float:
        """Of native requests that do not say one: what suits a packaged model unless it was set."""
        packaged = PACKAGED.get(self.model)
        if packaged is None or "temperature" in self.model_fields_set:
            return self.temperature
        return packaged.sampling["temperature"]

    @property
    def model_name(self) -> str:
        """Model name for clients."""
        return self.served_model_name or self.model

    @property
    def alerts(self) -> dict[str, float]:
        """Thresholds that were given, by name."""
        given = {
            "error_rate": self.alert_error_rate,
            "latency_p99": self.alert_latency_p99,
            "gpu_memory_usage": self.alert_gpu_memory_usage,
        }
        return {name: limit for name, limit in given.items() if limit is not None}

    def shown(self, flags: dict[str, Any] | None = None) -> list[tuple[str, str, str]]:
        """(name, value, where it came from) of every setting, secrets masked. flags: as given to the constructor."""
        came = came_from(flags or {})
        fields = type(self).model_fields
        return [(name, aliases.plain(getattr(self, name)), came.get(name, "default")) for name in fields]


def came_from(flags: dict[str, Any]) -> dict[str, str]:
    """Field -> the source of its value, as text; fields at their defaults are absent. flags: as given."""
    known = FastServeConfig.model_fields
    return sources.origins(sources.named(flags, known), known)


def explain(error: ValueError, flags: dict[str, Any] | None = None) -> str:
    """Validation errors as one line: setting, what is wrong, and the source of the value."""
    if not isinstance(error, ValidationError):
        return str(error)
    came = came_from(flags or {})
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        what = fault["msg"].removeprefix("Value error, ")
        told = re.match(r"(\w+)=", what)  # what an engine refuses begins with the setting
        name = str(fault["loc"][0]) if fault["loc"] else ""
        value = fault["input"]
        shows = isinstance(value, (str, int, float)) and len(str(value)) < 80 and name not in SECRET
        given = (f"{name}={value}: " if shows else f"{name}: ") if name else ""
        cause = name or (told.group(1) if told else "")
        source = f" (from {came[cause]})" if came.get(cause, "argument") != "argument" else ""
        lines.append(f"{given}{what[:1].lower()}{what[1:]}{source}")
    return "; ".join(lines)


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"it is none of {', '.join(choices)}")
    return value
