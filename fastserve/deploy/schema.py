"""What the YAML of an application may say. Unknown keys are refused."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fastserve.deploy import quantities

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,28}[a-z0-9])?")
"""A name of an application or a server: both together, and what is added, are a Kubernetes name of at most 63."""

KINDS = ("text_generation", "text-generation")
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,2})?")
MOST_REPLICAS = 100
LONGEST = 30
GATEWAY, MANAGER, PAGE, REDIS = 8000, 8001, 3000, 6379
"""Ports that users of such deployments know."""


def _label(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no name: small letters, digits and -, a letter first, at most 30")
    return text


def slug(text: str) -> str:
    """A name made from another: mistralai/Mistral-7B-v0.1 -> mistral-7b-v0-1."""
    last = re.split(r"[/:]", text.rstrip("/"))[-1] or text
    found = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:LONGEST].strip("-")
    return found if found[:1].isalpha() else f"model-{found}"[:LONGEST].strip("-")


def _device(text: str) -> str:
    if text == "mps":
        raise ValueError("mps is Apple's GPU, which no container has: run fastserve serve there, or give cpu or cuda")
    if not DEVICE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is none of auto, cpu, cuda, cuda:N")
    return text


def _kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(f"{text[:40]!r}: this serves text generation only; give {KINDS[0]}")
    return text


def _capability(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d))?", str(value))
    if isinstance(value, bool) or match is None:
        raise ValueError(f"{str(value)[:40]!r} is no CUDA capability: give one such as 8.0 or 9.0")
    return int(match[1]), int(match[2] or 0)


def _replicas(value: object) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= MOST_REPLICAS:
        raise ValueError(f"give at least 1 and at most {MOST_REPLICAS}, or min and max")
    return {"min": value, "max": value}


def _named(key: str) -> BeforeValidator:
    """A mapping, also written as the value of one of its keys; true is the mapping with its defaults."""

    def mapping(value: object) -> object:
        if value is True:
            return {}
        return {key: value} if isinstance(value, str) else value or None

    return BeforeValidator(mapping)


def _switch(value: object) -> object:
    """true is the mapping with its defaults."""
    return {} if value is True else value or None


def _queue(value: object) -> object:
    if value is True or value == "redis":
        return {}
    return {"url": value} if isinstance(value, str) else value or None


def _redis(url: str) -> str:
    if not re.fullmatch(r"rediss?://[!-~]{1,500}", url):
        raise ValueError(f"{url[:60]!r} is no Redis: give redis://HOST:PORT, or true to deploy one")
    if "@" in url:
        raise ValueError("a password does not stand in a file of a deployment: give {secret: NAME}, whose key is url")
    return url


Label = Annotated[str, AfterValidator(_label)]
Size = Annotated[int, BeforeValidator(quantities.size)]
Cores = Annotated[Decimal, BeforeValidator(quantities.cores)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Count = Annotated[int, Field(strict=True, ge=0, le=64)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Knobs = dict[str, Any]


class Part(BaseModel):
    """A mapping of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class Api(Part):
    """A route that clients of this application use: checked, and asked by make test-inference-service."""

    path: Annotated[str, Field(pattern=r"^/[!-~]{0,200}$")]
    inputs: list[dict[str, Any]] = []
    """names of fields of the request, each with its type; `optional: true` beside it"""
    outputs: list[dict[str, Any]] = []


class Model(Part):
    type: Annotated[str, AfterValidator(_kind)] = KINDS[0]
    uri: Text
    """a Hugging Face id (with @REVISION if wanted), REPO:FILE.gguf, a folder, smollm2 or embedded"""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    dtype: str | None = None
    generation_params: Knobs = {}
    """what requests have that do not say: temperature, top_p, top_k, max_new_tokens, seed"""


class Replicas(Part):
    """As many, or between min and max by CPU use (on Kubernetes)."""

    min: Annotated[int, Field(strict=True, ge=1, le=MOST_REPLICAS)] = 1
    max: Annotated[int, Field(strict=True, ge=1, le=MOST_REPLICAS)] = 1


Many = Annotated[Replicas, BeforeValidator(_replicas)]


class Resources(Part):
    cpus: Cores | None = None
    memory: Size | None = None
    gpus: Count | None = None
    gpu_memory: Size | None = None
    """of each GPU"""
    gpu_cuda_capability: Annotated[tuple[int, int], BeforeValidator(_capability)] | None = None
    """compute capability of each GPU, at least"""


class Server(Part):
    name: Label = ""  # of the model, unless given
    model: Model
    resources: Resources = Resources()
    rpc_port: Port = 6500
    replicas: Many = Replicas()
    policy: Text | None = None
    set: Knobs = {}
    backend: Text = "torch"
    settings: Knobs = {}
    """further settings of fastserve serve, by name"""


class Router(Part):
    name: Text | None = None  # the gateway's own choice
    set: Knobs = {}


class Gateway(Part):
    replicas: Many = Replicas()
    port: Port = GATEWAY
    manager_port: Port | None = MANAGER
    page_port: Port | None = PAGE
    resources: Resources = Resources()
    settings: Knobs = {}
    """further settings of fastserve gateway, by name"""


class Models(Part):
    """Models that come and go: the gateway fetches them and runs a server process for each, on its own CPUs."""

    max: Annotated[int, Field(strict=True, ge=1, le=1000)] = 4
    """in memory at a time; the least recently used goes"""
    idle_seconds: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """without a request, after which one is unloaded; 0 for never"""
    options: Knobs = {}
    """settings of fastserve serve for all of them"""


class Cache(Part):
    type: Literal["memory", "disk", "redis"] = "memory"
    size: Size | None = None
    ttl_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None


class Queue(Part):
    """Of a Redis that is there already, by url or secret; by default one is deployed."""

    url: Annotated[str, AfterValidator(_redis)] | None = None
    secret: Label | None = None
    """name of the secret whose key `url` is its URL, with the password"""


class Storage(Part):
    """The volume with the models' files."""

    size: Size = 50 * 10**9
    class_: Annotated[Text | None, Field(alias="class")] = None
    access: Literal["ReadWriteOnce", "ReadWriteMany"] | None = None
    """by default ReadWriteMany where more than one pod reads it"""


class Application(Part):
    name: Label = ""  # of the file, unless given
    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/:-]{0,200}$")] | None = None
    """repository of the images, where a cluster finds them: registry.example/team/app"""
    apis: list[Api] = []
    servers: Annotated[list[Server], Field(max_length=64)] = []
    models: Annotated[Models | None, BeforeValidator(_switch)] = None
    router: Annotated[Router, _named("name")] = Router()
    gateway: Gateway = Gateway()
    cache: Annotated[Cache | None, _named("type")] = None
    queue: Annotated[Queue | None, BeforeValidator(_queue)] = None
    workers: Count | None = None
    """processes that run queued jobs"""
    storage: Storage = Storage()
    api_keys: Label | None = None
    """name of the secret whose key `tokens` has one TOKEN [CLIENT] a line; never a token"""
    hf_token: Label | None = None
    """name of the secret whose key `token` is for gated models"""
