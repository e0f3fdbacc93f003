"""FastServeConfig: all settings of the server, from flags, environment, .env and YAML.

Order of precedence: keyword arguments (flags), environment, .env, the YAML file named by `config`, defaults.
sources.py reads them; http_settings.py has those of any HTTP server, this module the model server's: names, defaults,
help and validation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve import backends
from fastserve.backends.options import OLLAMA_MODEL, SECRETS, USE_OLLAMA, expanded
from fastserve.engine.config import POLICY, EngineConfig
from fastserve.jobqueue.settings import QueueSettings
from fastserve.named_models import EMBEDDED, PACKAGED
from fastserve.policies.spec import PolicySpec
from fastserve.sched.checks import LONGEST_S, MOST
from fastserve.server.config.aliases import SERVER
from fastserve.server.config.derived import ENGINE, derived, with_options
from fastserve.server.config.dialect import Dialect
from fastserve.server.config.forms import Knobs, Words
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.config.named_code import is_true
from fastserve.server.config.ranges import Count, Positive, Seconds, Share, Tokens


def _filter(value: object) -> object:
    """As other servers write it: a switch, which needs a name here."""
    if value is True:
        raise ValueError("which prompts are refused is a function of yours: give module:function or ./file.py:function")
    return value or None


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


class FastServeConfig(QueueSettings, HttpSettings, Fourth):
    """Raises ValueError (ValidationError is one) for unknown names, invalid values, and conflicting settings.

    Frozen: a running server does not change.
    """

    dialect: ClassVar[Dialect] = SERVER
    secret: ClassVar[tuple[str, ...]] = ("api_key", "hf_token", "queue", *SECRETS)

    kv_cache_gib: Positive | None = None
    """device KV pool in GiB, instead of --kv-tokens"""
    host_cache_gib: Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)] | None = None
    """host KV pool in GiB, instead of --host-tokens"""
    lora_dir: Path | None = None
    """let clients load adapters from this folder while the server runs (POST /v1/load_lora_adapter); by default none
    may, since it reads files of this machine"""
    latency: str | None = None
    """latency model for the policy: a preset, roofline:MODEL/DEVICE or a JSON file (by default measured at load)"""
    timeline: Path | None = None
    """write a Chrome trace of slots, preemptions and copies here, for ui.perfetto.dev, while the server runs"""
    iterations: Path | None = None
    """write a row per iteration here (CSV), while the server runs"""
    observer: Words = ()
    """your own observers, module:Class or ./file.py:Class; repeatable"""

    # -- server
    workers: int = 1
    """always 1: one engine a process"""
    queue_capacity: Annotated[int, Field(ge=0, le=MOST)] = 1000
    """maximum waiting requests; more are refused with 503, to bound memory (an engine has no bound)"""
    request_timeout: Seconds = 600.0
    """seconds from arrival to the end, 0 for no limit; jobs sent to /jobs have none"""
    state_dir: Path | None = None
    """where durable jobs are kept (by default the user's state folder, by port)"""
    keep_jobs: Count = 10_000
    """maximum finished jobs that are kept"""
    keep_hours: Positive = 24.0
    """hours for which finished jobs are kept, counted while a server runs"""
    keep_mib: Positive = 512.0
    """MiB of memory for requests and finished jobs: prompts, metadata, results; the oldest finished ones go first"""

    # -- request defaults
    max_new_tokens: Tokens = 100
    """output tokens"""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.7
    """sampling temperature (of smollm2: 0)"""
    top_p: Share = 0.9
    """nucleus sampling"""
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] = 50
    """sample from the k likeliest tokens; 0 is all"""
    defaults_for: Literal["native", "all"] = "native"
    """which routes have those of these defaults that were set; all: OpenAI's too"""

    # -- limits
    share_prefixes: Literal["client", "all"] = "client"
    """with tokens, whose prompts share KV: each client's among themselves, or all (then a client can find out, by time
    and by cached_tokens, what others have asked, unless its requests bring a cache_salt)"""
    admin_clients: Words = ()
    """with tokens, clients that may empty the prefix cache for all, and load adapters (without tokens everybody may)"""
    content_filter: Annotated[str | None, BeforeValidator(_filter)] = None
    """your own function that may refuse prompts (text -> None, or the reason), module:function or ./file.py:function"""
    max_prompt_length: Tokens | None = None
    """maximum prompt tokens of a request"""
    max_tokens: Tokens | None = None
    """maximum output tokens of a request"""
    alert_error_rate: Share | None = None
    """warn when more than this share of recent requests failed"""
    alert_latency_p99: Positive | None = None
    """warn when the 99th percentile of completion times exceeds this, in seconds"""
    alert_gpu_memory_usage: Share | None = None
    """warn when more than this share of device memory is in use"""

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

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int) -> int:
        if value != 1:
            raise ValueError(
                "one process holds one engine and one scheduler, so there is one worker; for more, run several "
                "servers on ports of their own behind `fastserve gateway`"
            )
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


def explain(error: ValueError, flags: dict[str, Any] | None = None) -> str:
    """Validation errors as one line: setting, what is wrong, and the source of the value."""
    return FastServeConfig.explain(error, flags)


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"it is none of {', '.join(choices)}")
    return value
