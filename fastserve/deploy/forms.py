"""The forms of a deployment as files: docker, compose, kubernetes, local. The same input gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from fastserve.deploy import commands, local, plan
from fastserve.deploy.application import ApplicationError
from fastserve.deploy.compose import compose
from fastserve.deploy.docker import IGNORED, dockerfile
from fastserve.deploy.kubernetes import manifests
from fastserve.deploy.schema import Application
from fastserve.deploy.yaml_lines import Document

FORMS: Final = ("compose", "kubernetes", "docker", "local")

DOCKERFILE, COMPOSE, FOLDER, PROCESSES = "Dockerfile", "compose.yaml", "kubernetes", "processes.json"

COMPOSE_HEAD = """\
# {name}: docker compose up -d --build{profile}
# The gateway is at http://127.0.0.1:{port}; FASTSERVE_BIND=0.0.0.0 publishes its ports to other machines.
"""

KUBERNETES_HEAD = "# {name}: kubectl apply --filename {folder}/, once the images are where the cluster finds them.\n"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _several_lines(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    """A command is one line as long as it fits, and else a word a line."""
    flat = all(isinstance(item, str) for item in items) and sum(len(item) + 4 for item in items) < 90
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(list, _several_lines)


def dumped(objects: Iterable[Any]) -> str:
    """One YAML document an object."""
    return yaml.dump_all(list(objects), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def files(app: Application, document: Document, form: str, out: Path, clone: Path) -> dict[str, str]:
    """Name in `out` -> content. clone: of this project, from which images are made. Raises ApplicationError."""
    if form == "local":
        if faults := list(_replicas(app)):
            raise ApplicationError("\n".join(document.fault(at, what) for at, what in faults))
        return {PROCESSES: local.dumped(local.processes(app, document.path.parent, out))}
    places = commands.artifacts(app)
    if form == "kubernetes":
        _in_a_cluster(app, document)
    elif form == "compose" and (faults := list(_replicas(app))):
        raise ApplicationError("\n".join(document.fault(at, what) for at, what in faults))
    names = [name for server in app.servers for name in plan.replica_names(server, server.replicas.min)]
    ports = dict(zip(names, (s.rpc_port for s in app.servers for _ in range(s.replicas.min)), strict=True))
    upstreams = [f"http://{name}:{port}" for name, port in ports.items()]
    gateway = plan.gateway(app, {"upstream": upstreams}, redis="redis")
    found = {
        DOCKERFILE: dockerfile(app, str(_between(clone, out) / DOCKERFILE), gateway, places),
        f"{DOCKERFILE}.dockerignore": IGNORED,
    }
    if form == "compose":
        tree = compose(app, str(_between(out, clone)), str(_between(clone, out) / DOCKERFILE), document.path.parent)
        gpus = any("profiles" in service for service in tree["services"].values())
        profile = ", with the GPUs: docker compose --profile gpu up -d --build" if gpus else ""
        head = COMPOSE_HEAD.format(name=app.name, port=app.gateway.port, profile=profile)
        found[COMPOSE] = head + dumped([tree])
    elif form == "kubernetes":
        head = KUBERNETES_HEAD.format(name=app.name, folder=FOLDER)
        for name, objects in manifests(app).items():
            found[f"{FOLDER}/{name}"] = head + dumped(objects)
    return found


def _between(start: Path, end: Path) -> Path:
    """The way from one folder to the other."""
    return Path(os.path.relpath(end.resolve(), start.resolve()))


def _replicas(app: Application) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """One machine has nothing that adds replicas by load."""
    told = "min and max are for an autoscaler, which only Kubernetes has: give one number"
    for index, server in enumerate(app.servers):
        if server.replicas.min != server.replicas.max:
            yield ("servers", index, "replicas"), f"servers[{index}].replicas: {told}"
    if app.gateway.replicas.max > 1:
        yield ("gateway", "replicas"), "gateway.replicas: its port is one of this machine's, where there is one gateway"


def _in_a_cluster(app: Application, document: Document) -> None:
    faults = []
    for index, server in enumerate(app.servers):
        uri = server.model.uri
        if commands.is_folder(uri) and not plan.in_volume(uri):
            what = (
                f"servers[{index}].model.uri={uri}: a folder of this machine is not in a cluster: give a Hugging Face "
                f"id, or put it into the volume of the models and give {commands.ARTIFACTS}/NAME"
            )
            faults.append(document.fault(("servers", index, "model", "uri"), what))
        autoscales = server.replicas.max > server.replicas.min
        if autoscales and server.resources.cpus is None:
            what = f"servers[{index}].replicas: between min and max it goes by CPU use, of resources: {{cpus: N}}"
            faults.append(document.fault(("servers", index, "replicas"), what))
    if app.gateway.replicas.max > app.gateway.replicas.min and app.gateway.resources.cpus is None:
        what = "gateway.replicas: between min and max it goes by CPU use, of gateway.resources: {cpus: N}"
        faults.append(document.fault(("gateway", "replicas"), what))
    if faults:
        raise ApplicationError("\n".join(faults))
