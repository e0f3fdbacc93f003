"""compose.yaml: gateway, model servers, workers, Redis and the artifact stage, for Docker on one machine.

Each replica is a service of its own: so each has a GPU of its own, and the gateway's router sees them one by one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from fastserve.deploy import commands, plan
from fastserve.deploy.checks import gpus_of
from fastserve.deploy.commands import ARTIFACTS, STATE, Target
from fastserve.deploy.docker import probe
from fastserve.deploy.quantities import docker_size
from fastserve.deploy.schema import REDIS, Application, Resources, Server

Tree: TypeAlias = dict[str, Any]

FETCHED, HEALTHY = "service_completed_successfully", "service_healthy"
GPU = "gpu"
"""Profile of what needs a GPU: docker compose --profile gpu up."""

BIND = "${FASTSERVE_BIND:-127.0.0.1}"
"""Address at which the gateway's ports are published: of this machine alone unless the user says otherwise."""

STOP = "40s"  # the server's own drain is 30 s


def compose(app: Application, context: str, dockerfile: str, folder: Path) -> Tree:
    """The content of compose.yaml. context: folder of the clone, dockerfile: the Dockerfile, both from compose.yaml.
    folder: of the application's file, from which models that are folders are looked for.
    """
    build = {"context": context, "dockerfile": dockerfile}
    places = commands.artifacts(app)
    services: Tree = {"gateway": _gateway(app, build)}
    if places:
        services["artifacts"] = _artifacts(app, build, places)
    gpus = 0
    for server in app.servers:
        count = server.replicas.min
        for name in plan.replica_names(server, count):
            services[name] = _server(app, build, server, places, gpus)
            services["gateway"]["depends_on"][name] = _waits(server)
            services[name]["volumes"] = [*_volumes(server, folder), f"{name}-state:{STATE}"]
            gpus += gpus_of(server)
    if plan.needs_redis(app):
        services["redis"] = _redis()
        services["gateway"]["depends_on"]["redis"] = {"condition": HEALTHY}
    if plan.workers(app):
        services["worker"] = _worker(app, build)
    found: Tree = {"name": app.name, "services": services}
    volumes = sorted({volume.partition(":")[0] for each in services.values() for volume in each.get("volumes", ())
                      if not volume.startswith((".", "/", "~"))})  # fmt: skip
    if volumes:
        found["volumes"] = {volume: {} for volume in volumes}
    if app.api_keys is not None:
        found["secrets"] = {app.api_keys: {"file": f"./secrets/{app.api_keys}"}}
    return found


def _service(app: Application, build: Tree, target: Target, command: list[str]) -> Tree:
    return {
        "image": plan.image(app, target),
        "build": {**build, "target": target, "args": ["PIP_INDEX_URL"]},
        "command": [word.replace("$", "$$") for word in command],  # nothing in it is a variable
        "restart": "unless-stopped",
        "init": True,
        "stop_grace_period": STOP,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _gateway(app: Application, build: Tree) -> Tree:
    upstreams = [
        f"http://{name}:{server.rpc_port}"
        for server in app.servers
        for name in plan.replica_names(server, server.replicas.min)
    ]
    command = plan.gateway(app, {"upstream": upstreams}, redis="redis")
    found = _service(app, build, plan.gateway_target(app), command)
    found["ports"] = [f"{BIND}:{port}:{port}" for port in plan.ports(app).values()]
    found["healthcheck"] = _health(probe(app.gateway.port, commands.GATEWAY_LIVE), "30s")
    found["depends_on"] = {}
    found["volumes"] = [f"gateway-state:{STATE}"]
    if app.models is not None:
        found["volumes"].append(f"models:{plan.MODELS_DIR}")
    if app.api_keys is not None:
        found["secrets"] = [{"source": app.api_keys, "target": commands.KEYS}]
    if app.queue is not None and app.queue.secret is not None:
        found["environment"] = {plan.QUEUE_VARIABLES[0]: _given(plan.QUEUE_VARIABLES[1], "the queue's Redis URL")}
    return found | _limits(app.gateway.resources)


def _artifacts(app: Application, build: Tree, places: dict[str, str]) -> Tree:
    found = _service(app, build, "gateway", commands.fetch(places))
    found["restart"] = "no"
    found["healthcheck"] = {"disable": True}  # it ends
    found["environment"] = {"HF_TOKEN": None, "HF_ENDPOINT": None}  # as in the user's shell, if they are there
    if all(gpus_of(server) for server in app.servers if commands.fetched(server)):
        found["profiles"] = [GPU]
    if app.hf_token is not None:
        found["environment"]["HF_TOKEN"] = _given("HF_TOKEN", "a token of the hub, for gated models")
    found["volumes"] = [f"artifacts:{ARTIFACTS}"]
    return found


def _server(app: Application, build: Tree, server: Server, places: dict[str, str], first_gpu: int) -> Tree:
    target = commands.target(server)
    found = _service(app, build, target, commands.serve(server, plan.model(server, places)))
    gpus = gpus_of(server)
    if gpus:
        found["profiles"] = [GPU]
    found["expose"] = [str(server.rpc_port)]
    found["healthcheck"] = _health(probe(server.rpc_port, commands.ready_path(server)), "600s")
    if commands.fetched(server):
        found["depends_on"] = {"artifacts": {"condition": FETCHED}}
    found |= _limits(server.resources)
    if gpus:
        ids = [str(first_gpu + index) for index in range(gpus)]
        devices = [{"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}]
        found.setdefault("deploy", {}).setdefault("resources", {})["reservations"] = {"devices": devices}
    if commands.target(server) == "vllm":
        found["ipc"] = "host"  # its workers share memory
    return found


def _volumes(server: Server, folder: Path) -> list[str]:
    uri = server.model.uri
    if commands.fetched(server) or plan.in_volume(uri):
        return [f"artifacts:{ARTIFACTS}:ro"]
    if commands.is_folder(uri):
        return [f"{(folder / Path(uri).expanduser()).resolve()}:{plan.model(server, {})}:ro"]
    return []


def _waits(server: Server) -> Tree:
    """What needs a GPU is not there without the profile."""
    return {"condition": HEALTHY, **({"required": False} if gpus_of(server) else {})}


def _redis() -> Tree:
    return {
        "image": f"${{REDIS_IMAGE:-{plan.REDIS_IMAGE}}}",
        "command": list(plan.REDIS_COMMAND),
        "restart": "unless-stopped",
        "expose": [str(REDIS)],
        "volumes": ["redis:/data"],
        "healthcheck": _health(["redis-cli", "ping"], "10s"),
    }


def _worker(app: Application, build: Tree) -> Tree:
    found = _service(app, build, "gateway", plan.worker(app, f"http://gateway:{app.gateway.port}", redis="redis"))
    found["deploy"] = {"replicas": plan.workers(app)}
    found["depends_on"] = {"gateway": {"condition": HEALTHY}}
    found["healthcheck"] = {"disable": True}  # it listens nowhere
    environment = {}
    if app.queue is not None and app.queue.secret is not None:
        environment[plan.QUEUE_VARIABLES[1]] = _given(plan.QUEUE_VARIABLES[1], "the queue's Redis URL")
    if app.api_keys is not None:
        environment[plan.WORKER_KEY] = _given(plan.WORKER_KEY, f"one of the tokens of {app.api_keys}")
    return found | ({"environment": environment} if environment else {})


def _given(name: str, what: str) -> str:
    """A variable of the user's shell or of the file .env beside compose.yaml, without which nothing starts."""
    return f"${{{name}:?set it to {what}}}"


def _health(test: list[str], start: str) -> Tree:
    return {"test": ["CMD", *test], "interval": "10s", "timeout": "5s", "retries": 3, "start_period": start}


def _limits(resources: Resources) -> Tree:
    limits: Tree = {}
    if resources.cpus is not None:
        limits["cpus"] = str(resources.cpus)
    if resources.memory is not None:
        limits["memory"] = docker_size(resources.memory)
    return {"deploy": {"resources": {"limits": limits}}} if limits else {}
