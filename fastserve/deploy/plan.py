"""What is deployed, once for all forms: images, who needs Redis, what the gateway and workers are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from fastserve.deploy import commands
from fastserve.deploy.commands import EVERYWHERE, Target
from fastserve.deploy.schema import REDIS, Application, Server
from fastserve.deploy.settings import flags

MODELS_DIR = f"{commands.ARTIFACTS}/models"
"""Of models that come and go."""

REDIS_IMAGE = "redis:8-alpine"
REDIS_COMMAND = ("redis-server", "--appendonly", "yes", "--appendfsync", "always")
"""Each job is on disk before it is answered for."""

QUEUE_VARIABLES = ("FASTSERVE_GATEWAY_QUEUE", "FASTSERVE_QUEUE")
"""Of the gateway and of a worker, where the URL has a password and stands in a secret."""

WORKER_KEY = "FASTSERVE_WORKER_KEY"
"""Variable with the token by which workers ask a gateway that wants one."""


def image(app: Application, target: Target) -> str:
    """registry.example/app:cpu; of one with a tag, registry.example/app:1.2-cpu."""
    name = app.image or app.name
    tagged = ":" in name.rpartition("/")[2]
    return f"{name}{'-' if tagged else ':'}{target}"


def needs_redis(app: Application) -> bool:
    """Whether one is deployed."""
    queue = app.queue is not None and app.queue.url is None and app.queue.secret is None
    return queue or (app.cache is not None and app.cache.type == "redis")


def queue_url(app: Application, redis: str) -> str | None:
    """As flags say it; None where there is no queue, or its URL is a secret. redis: host of a deployed one."""
    if app.queue is None or app.queue.secret is not None:
        return None
    return app.queue.url or f"redis://{redis}:{REDIS}/0"


def workers(app: Application) -> int:
    """Processes that run queued jobs."""
    return 0 if app.queue is None else 1 if app.workers is None else app.workers


def gateway(
    app: Application,
    found: dict[str, Any],
    *,
    redis: str,
    host: str = EVERYWHERE,
    keys: str = commands.KEYS,
    models_dir: str = MODELS_DIR,
) -> list[str]:
    """`fastserve gateway`. found: the settings by which it finds the servers. redis: the host of a deployed one. keys:
    the file with tokens. models_dir: where models lie that come and go.
    """
    from fastserve.gateway.config.settings import GatewayConfig

    its = app.gateway
    settings: dict[str, Any] = {"host": host, "port": its.port}
    settings |= {"manager_port": its.manager_port, "page_port": its.page_port}
    settings |= found
    if app.router.name is not None:
        settings["router"] = app.router.name
    if app.router.set:
        settings["router_set"] = app.router.set
    if app.cache is not None:
        settings["cache"] = f"redis://{redis}:{REDIS}/1" if app.cache.type == "redis" else app.cache.type
        if app.cache.type == "disk" and host == EVERYWHERE:
            settings["cache_dir"] = f"{commands.STATE}/cache/answers"
        if app.cache.size is not None:
            settings["cache_size"] = app.cache.size
        if app.cache.ttl_seconds is not None:
            settings["cache_ttl"] = app.cache.ttl_seconds
    if url := queue_url(app, redis):
        settings["queue"] = url
    if app.api_keys is not None:
        settings["api_key_file"] = keys
    if app.models is None:
        settings["models_pull"] = False  # its image has no PyTorch, so that what it fetched would not run
    else:
        settings |= {"models_dir": models_dir, "models_max": app.models.max, "idle_seconds": app.models.idle_seconds}
        settings["model_options"] = app.models.options
    return ["fastserve", "gateway", *flags(GatewayConfig, settings | its.settings)]


def gateway_target(app: Application) -> Target:
    """The gateway's image: the one with PyTorch where it runs models itself."""
    return "gateway" if app.models is None else "cpu"


def worker(app: Application, server: str, *, redis: str) -> list[str]:
    """`fastserve worker`. server: the gateway's URL."""
    words = ["fastserve", "worker", "--server", server]
    if url := queue_url(app, redis):
        words += ["--queue", url]
    if app.api_keys is not None:
        words += ["--server-key-env", WORKER_KEY]
    return words


def model(server: Server, places: dict[str, str]) -> str:
    """What --model says in a container."""
    uri = server.model.uri
    if commands.is_folder(uri) and not in_volume(uri):
        return f"/models/{server.name}{PurePath(uri).suffix if uri.endswith('.gguf') else ''}"
    folder = places.get(uri)
    return uri if folder is None else commands.model_path(server, folder)


def in_volume(uri: str) -> bool:
    """Whether somebody has put the model into the shared volume."""
    return uri.startswith(f"{commands.ARTIFACTS}/")


def ports(app: Application) -> dict[str, int]:
    """Of the gateway, by name."""
    its = app.gateway
    found = {"http": its.port, "manager": its.manager_port, "page": its.page_port}
    return {name: port for name, port in found.items() if port is not None}


def replica_names(server: Server, count: int) -> Sequence[str]:
    """One alone has the server's name."""
    return [server.name] if count == 1 else [f"{server.name}-{index}" for index in range(1, count + 1)]
