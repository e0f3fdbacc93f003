"""The command line of each process of an application; the forms say where its files and its neighbours are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, TypeAlias

from fastserve.deploy.checks import gpus_of
from fastserve.deploy.schema import Application, Server
from fastserve.deploy.settings import GENERATION, VLLM, flags, server_settings
from fastserve.named_models import NAMES
from fastserve.server.config.settings import FastServeConfig

Target: TypeAlias = Literal["gateway", "cpu", "cuda", "vllm"]
"""A stage of the Dockerfile."""

EVERYWHERE = "0.0.0.0"  # of a container, which is reached from outside it only where its ports are published
STATE = "/state"
ARTIFACTS, ARTIFACT_MODEL = "/artifacts", "/artifacts/model"
"""The values that ARTIFACT_DIR and ARTIFACT_MODEL_DIR have in images."""

KEYS = "/run/secrets/api_keys/tokens"
READY = "/health/ready"
GATEWAY_LIVE = "/ping"  # its /health says whether servers are there, for which it need not be started again
LIVE = "/health"
VLLM_HEALTH = "/health"


def target(server: Server) -> Target:
    """The image that it runs in."""
    if server.backend == VLLM:
        return "vllm"
    return "cuda" if gpus_of(server) else "cpu"


def fetched(server: Server) -> bool:
    """Whether its model comes from a hub."""
    uri = server.model.uri
    return server.backend != "scripted" and uri not in NAMES and not is_folder(uri) and server.backend != "upstream"


def is_folder(uri: str) -> bool:
    """Whether the model is a folder or a file of the machine, by how it is written: as the loaders decide it."""
    return uri.startswith((".", "/", "~"))


def artifacts(app: Application) -> dict[str, str]:
    """uri -> folder of the shared volume, of what is fetched. One model alone has the name that users know."""
    names: dict[str, str] = {}
    for server in app.servers:
        if fetched(server):
            names.setdefault(server.model.uri, server.name)
    if len(names) == 1:
        return dict.fromkeys(names, ARTIFACT_MODEL)
    return {uri: f"{ARTIFACTS}/{name}" for uri, name in names.items()}


def model_path(server: Server, folder: str) -> str:
    """What --model says once the model lies in this folder: the folder, or its GGUF file."""
    file = server.model.uri.partition(":")[2]
    return f"{folder}/{PurePath(file).name}" if file else folder


def served_name(server: Server) -> str:
    """What clients call the model: wherever it lies, as the application's file says it, without a revision."""
    return server.model.uri.partition("@")[0]


def serve(
    server: Server,
    model: str,
    *,
    host: str = EVERYWHERE,
    port: int | None = None,
    state: str = STATE,
    without: Sequence[str] = (),
) -> list[str]:
    """`fastserve serve` or `fastserve vllm`. model: for --model. without: settings that are left out."""
    if server.backend == VLLM:
        return _vllm(server, model, host, port or server.rpc_port)
    settings: dict[str, Any] = {"model": model, "served_model_name": served_name(server)}
    settings |= {"host": host, "port": port or server.rpc_port, "state_dir": state} | server_settings(server)
    kept = {name: value for name, value in settings.items() if name not in without}
    return ["fastserve", "serve", *flags(FastServeConfig, kept)]


def _vllm(server: Server, model: str, host: str, port: int) -> list[str]:
    words = ["fastserve", "vllm", model]
    words += [] if server.policy is None else ["--policy", server.policy]
    words += [word for key, value in server.set.items() for word in ("--set", f"{key}={value}")]
    theirs = {
        "--served-model-name": served_name(server),
        "--host": host,
        "--port": port,
        "--tensor-parallel-size": gpus_of(server),
        "--dtype": server.model.dtype,
    }
    behind = [word for flag, value in theirs.items() if value is not None for word in (flag, str(value))]
    if server.model.generation_params:
        params = {GENERATION[name]: value for name, value in server.model.generation_params.items()}
        behind += ["--override-generation-config", json.dumps(params)]
    return [*words, "--", *behind]


def ready_path(server: Server) -> str:
    """vLLM has no route of its own for readiness: its /health answers when it is."""
    return VLLM_HEALTH if server.backend == VLLM else READY


def fetch(places: Mapping[str, str]) -> list[str]:
    """What ends when all models are there. places: uri -> folder."""
    return ["python", "-m", "fastserve.deploy.fetch", *(f"{uri}={folder}" for uri, folder in places.items())]
