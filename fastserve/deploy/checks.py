"""What cannot be: combinations of settings that would start and never work, and routes that nobody serves."""

from __future__ import annotations

from collections.abc import Iterator

from fastserve.backends.options import MODELS
from fastserve.deploy import routes
from fastserve.deploy.application import ApplicationError, shown
from fastserve.deploy.schema import Application, Resources, Server
from fastserve.deploy.settings import VLLM, faults
from fastserve.deploy.yaml_lines import At, Document
from fastserve.importing import SUFFIX


def check(app: Application, document: Document) -> None:
    """Raises ApplicationError, a line for each fault in the order of the file."""
    found = [document.fault(at, what) for at, what in _faults(app)]
    found += faults(document, app)
    if found:
        raise ApplicationError("\n".join(sorted(dict.fromkeys(found), key=_line)))


def _line(fault: str) -> int:
    digits = fault.partition(", line ")[2].partition(":")[0]
    return int(digits) if digits.isdecimal() else 0


def _faults(app: Application) -> Iterator[tuple[At, str]]:
    if not app.servers and app.models is None:
        yield ("servers",), "servers is missing: give at least one, or models: true for models that come and go"
    if app.models is not None and app.gateway.manager_port is None:
        yield ("models",), "models are loaded at the manager's port: leave gateway.manager_port out"
    names: dict[str, int] = {}
    for index, server in enumerate(app.servers):
        at: At = ("servers", index)
        if server.name in names or server.name in ("gateway", "redis", "worker", "artifacts"):
            who = f"servers[{names[server.name]}]" if server.name in names else "another part of the deployment"
            yield (*at, "name"), f"{shown(at)}.name: {server.name} is the name of {who}; give it another one"
        names.setdefault(server.name, index)
        yield from _server(at, server)
    for index, api in enumerate(app.apis):
        for where, what in routes.faults(api):
            yield ("apis", index, *where), f"apis[{index}].{what}"
    for at, replicas in [
        (("gateway", "replicas"), app.gateway.replicas),
        *((("servers", index, "replicas"), server.replicas) for index, server in enumerate(app.servers)),
    ]:
        if replicas.min > replicas.max:
            yield at, f"{shown(at)}: min {replicas.min} is more than max {replicas.max}"
    ports = {"gateway.port": app.gateway.port, "gateway.manager_port": app.gateway.manager_port,
             "gateway.page_port": app.gateway.page_port}  # fmt: skip
    told: dict[int, str] = {}
    for name, port in ports.items():
        if port is not None and port in told:
            yield tuple(name.split(".")), f"{name}={port} is {told[port]} too; give each a port of its own"
        if port is not None:
            told[port] = name
    if app.gateway.resources.gpus:
        yield ("gateway", "resources", "gpus"), "gateway.resources.gpus: the gateway has no use for a GPU"
    if app.queue is None and app.workers is not None:
        yield ("workers",), "workers run queued jobs, and there is no queue: add queue: redis, or leave workers out"
    if app.queue is not None and app.workers == 0:
        yield ("workers",), "workers=0: nobody would run the queued jobs; give at least 1"


def _server(at: At, server: Server) -> Iterator[tuple[At, str]]:
    model, resources, gpus = server.model, server.resources, gpus_of(server)
    where = (*at, "resources", "gpus")
    cuda = model.device.startswith("cuda")
    if cuda and resources.gpus == 0:
        yield where, f"{shown(where)}=0, and model.device is {model.device}: give gpus: 1, or device: cpu"
    elif model.device == "cpu" and gpus:
        yield where, f"{shown(where)}={gpus}, and model.device is cpu: leave gpus out, or give device: cuda"
    elif gpus > 1 and server.backend != VLLM:
        yield (
            where,
            (
                f"{shown(where)}={gpus}: this engine computes on one device; give replicas: {gpus} with gpus: 1, or "
                f"backend: {VLLM}, which splits a model over them"
            ),
        )
    elif server.backend in MODELS and server.backend != "torch" and gpus:
        yield where, f"{shown(where)}={gpus}: the image of backend {server.backend} computes on the CPU; leave gpus out"
    elif server.backend == VLLM and not gpus:
        yield (*at, "backend"), f"{shown(at)}.backend={VLLM} is deployed on GPUs: give resources: {{gpus: 1}}"
    index = model.device.partition(":")[2]
    if index and gpus and int(index) >= gpus:
        yield (
            (*at, "model", "device"),
            (
                f"{shown(at)}.model.device={model.device}: with gpus: {gpus} the container sees cuda:0"
                f"{f' to cuda:{gpus - 1}' if gpus > 1 else ''} only"
            ),
        )
    for name in ("gpu_memory", "gpu_cuda_capability"):
        if getattr(resources, name) is not None and not gpus:
            yield (*at, "resources", name), f"{shown(at)}.resources.{name} is of a GPU: give gpus: 1 beside it"
    if server.backend == VLLM and server.settings:
        name = next(iter(server.settings))
        yield (*at, "settings", name), f"settings of fastserve serve do not reach vLLM: leave {name} out"
    for name in ("backend", "policy"):
        if SUFFIX in (getattr(server, name) or ""):
            yield (
                (*at, name),
                (
                    f"{shown(at)}.{name}: a file of this machine is not in the image; give module:Class of an "
                    "installed package, or the name of a shipped one"
                ),
            )
    uri = model.uri
    if "://" in uri:
        yield (
            (*at, "model", "uri"),
            (f"{shown(at)}.model.uri: models come from a Hugging Face hub, as ORGANISATION/NAME, or from a folder"),
        )


def gpus_of(server: Server) -> int:
    """GPUs of a replica; device: cuda alone means one."""
    resources: Resources = server.resources
    return resources.gpus if resources.gpus is not None else int(server.model.device.startswith("cuda"))
