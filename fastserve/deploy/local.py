"""The processes of an application on this machine, without containers: a file that fastserve.deploy.service runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastserve.deploy import commands, plan
from fastserve.deploy.checks import gpus_of
from fastserve.deploy.schema import REDIS, Application, Server

HOST = "127.0.0.1"


def processes(app: Application, folder: Path, out: Path) -> dict[str, Any]:
    """What is started, in order. folder: of the application's file. out: where its state is kept.

    Each model server has a port of its own, from rpc_port on, and each replica on a GPU its own GPU.
    """
    found: list[dict[str, Any]] = []
    if plan.needs_redis(app):
        data = str(out.resolve() / "state" / "redis")
        command = [*plan.REDIS_COMMAND, "--bind", HOST, "--port", str(REDIS), "--dir", data]
        found.append({"name": "redis", "command": command, "folder": data})
    taken = {*plan.ports(app).values(), REDIS}
    urls, gpus = [], 0
    for server in app.servers:
        for name in plan.replica_names(server, server.replicas.min):
            port = next(port for port in range(server.rpc_port, 65536) if port not in taken)
            taken.add(port)
            urls.append(f"http://{HOST}:{port}")
            found.append(_server(server, name, port, gpus, folder, out))
            gpus += gpus_of(server)
    keys = str(out.resolve() / "secrets" / app.api_keys) if app.api_keys is not None else ""
    models = str(out.resolve() / "models")
    gateway = plan.gateway(app, {"upstream": urls}, redis=HOST, host=HOST, keys=keys, models_dir=models)
    front = f"http://{HOST}:{app.gateway.port}"
    found.append({"name": "gateway", "command": gateway, "ready": f"{front}{commands.READY}"})
    if app.models is not None:
        found[-1]["folder"] = models
    worker = plan.worker(app, front, redis=HOST)
    found += [{"name": f"worker-{index}", "command": worker} for index in range(1, plan.workers(app) + 1)]
    apis = [api.model_dump(mode="json") for api in app.apis]
    return {"name": app.name, "url": front, "apis": apis, "processes": found}


def dumped(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _server(server: Server, name: str, port: int, first_gpu: int, folder: Path, out: Path) -> dict[str, Any]:
    uri = server.model.uri
    model = str((folder / Path(uri).expanduser()).resolve()) if commands.is_folder(uri) else uri.partition("@")[0]
    command = commands.serve(server, model, host=HOST, port=port, state=str(out.resolve() / "state" / name))
    found: dict[str, Any] = {"name": name, "command": command}
    if gpus := gpus_of(server):
        ids = ",".join(str(first_gpu + index) for index in range(gpus))
        found["environment"] = {"CUDA_VISIBLE_DEVICES": ids}
    found["ready"] = f"http://{HOST}:{port}{commands.ready_path(server)}"
    return found
