"""Kubernetes manifests: plain objects, a file for each part.

A model server is a Deployment behind a headless Service: the gateway finds each of its pods by name, so that the router
sees them one by one, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from fastserve.deploy import commands, plan
from fastserve.deploy.checks import gpus_of
from fastserve.deploy.commands import ARTIFACTS, STATE, Target
from fastserve.deploy.docker import USER
from fastserve.deploy.gpu_nodes import affinity
from fastserve.deploy.quantities import kubernetes_cores, kubernetes_size
from fastserve.deploy.schema import REDIS, Application, Replicas, Resources, Server

Tree: TypeAlias = dict[str, Any]

PART_OF, COMPONENT, NAME = "app.kubernetes.io/part-of", "app.kubernetes.io/component", "app.kubernetes.io/name"
GPU = "nvidia.com/gpu"
CPU_USE = 70
"""Per cent of the requested CPU at which another replica is wanted."""

LOADING_S = 1800
"""For which a model may be fetched and loaded before the pod counts as failed."""

GRACE_S = 40  # the server's own drain is 30 s
REDIS_DISK = 5 * 10**9


def manifests(app: Application) -> dict[str, list[Tree]]:
    """File name -> its objects."""
    places = commands.artifacts(app)
    found = {"gateway.yaml": _gateway(app)}
    storage = []
    if places or any(plan.in_volume(server.model.uri) for server in app.servers):
        storage.append(_volume(app, "artifacts", sum(server.replicas.max for server in app.servers)))
    if app.models is not None:
        storage.append(_volume(app, "models", app.gateway.replicas.max))
    if storage:
        found["storage.yaml"] = storage
    for server in app.servers:
        found[f"server-{server.name}.yaml"] = _server(app, server, places)
    if plan.needs_redis(app):
        found["redis.yaml"] = _redis(app)
    if plan.workers(app):
        found["worker.yaml"] = [_worker(app)]
    found["network.yaml"] = [_closed(app)]
    return dict(sorted(found.items()))


def _name(app: Application, part: str) -> str:
    return f"{app.name}-{part}"


def _labels(app: Application, part: str, kind: str) -> Tree:
    return {NAME: part, PART_OF: app.name, COMPONENT: kind}


def _meta(app: Application, part: str, kind: str) -> Tree:
    return {"name": _name(app, part), "labels": _labels(app, part, kind)}


def _deployment(app: Application, part: str, kind: str, pod: Tree, replicas: Replicas | None) -> Tree:
    """replicas: None where there can be only one, which ends before the next begins."""
    spec: Tree = {"replicas": 1 if replicas is None else replicas.min}
    if replicas is not None and replicas.max > replicas.min:
        del spec["replicas"]  # is the autoscaler's
    spec["selector"] = {"matchLabels": _labels(app, part, kind)}
    if replicas is None:
        spec["strategy"] = {"type": "Recreate"}
    spec["template"] = {"metadata": {"labels": _labels(app, part, kind)}, "spec": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(app, part, kind), "spec": spec}


def _service(app: Application, part: str, kind: str, ports: dict[str, int], headless: bool = False) -> Tree:
    spec: Tree = {"clusterIP": "None"} if headless else {}
    spec["selector"] = _labels(app, part, kind)
    spec["ports"] = [{"name": name, "port": port, "targetPort": name} for name, port in ports.items()]
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(app, part, kind), "spec": spec}


def _autoscaler(app: Application, part: str, kind: str, replicas: Replicas) -> list[Tree]:
    if replicas.max == replicas.min:
        return []
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_USE}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": _name(app, part)},
        "minReplicas": replicas.min,
        "maxReplicas": replicas.max,
        "metrics": [{"type": "Resource", "resource": cpu}],
    }
    meta = _meta(app, part, kind)
    return [{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec}]


def _container(app: Application, name: str, target: Target, command: Sequence[str], ports: dict[str, int]) -> Tree:
    found: Tree = {
        "name": name,
        "image": plan.image(app, target),
        "command": [command[0]],
        "args": [word.replace("$(", "$$(") for word in command[1:]],  # nothing in it is a variable
    }
    if ports:
        found["ports"] = [{"name": each, "containerPort": port} for each, port in ports.items()]
    found["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return found


def _pod(container: Tree, volumes: list[Tree], **more: Any) -> Tree:
    user: Tree = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    user |= {"fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}
    found: Tree = {
        "automountServiceAccountToken": False,
        # a Service's variables, FASTSERVE_GATEWAY_PORT say, would be taken for settings
        "enableServiceLinks": False,
        "securityContext": user,
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [container],
    }
    if volumes:
        found["volumes"] = volumes
    return found | more


def _probes(live: str, ready: str, port: str, loading_s: int) -> Tree:
    def get(path: str, period: int, failures: int) -> Tree:
        return {
            "httpGet": {"path": path, "port": port},
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        }

    return {
        "startupProbe": get(live, 5, max(1, loading_s // 5)),
        "livenessProbe": get(live, 10, 6),
        "readinessProbe": get(ready, 5, 3),
    }


def _resources(resources: Resources, gpus: int = 0) -> Tree:
    asked: Tree = {}
    if resources.cpus is not None:
        asked["cpu"] = kubernetes_cores(resources.cpus)
    if resources.memory is not None:
        asked["memory"] = kubernetes_size(resources.memory)
    limits = {name: amount for name, amount in asked.items() if name == "memory"}  # a CPU limit throttles
    if gpus:
        limits[GPU] = gpus
        asked[GPU] = gpus
    found = {"requests": asked, **({"limits": limits} if limits else {})}
    return {"resources": found} if asked else {}


def _secret_variable(variable: str, secret: str, key: str) -> Tree:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _gateway(app: Application) -> list[Tree]:
    part = kind = "gateway"
    discover = [f"http://{_name(app, server.name)}:{server.rpc_port}" for server in app.servers]
    command = plan.gateway(app, {"discover": discover}, redis=_name(app, "redis"))
    ports = plan.ports(app)
    container = _container(app, part, plan.gateway_target(app), command, ports)
    container |= _probes(commands.GATEWAY_LIVE, commands.READY, "http", 120) | _resources(app.gateway.resources)
    volumes: list[Tree] = [{"name": "state", "emptyDir": {}}]
    mounts: list[Tree] = [{"name": "state", "mountPath": STATE}]
    if app.models is not None:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": _name(app, "models")}})
        mounts.append({"name": "models", "mountPath": plan.MODELS_DIR})
    if app.api_keys is not None:
        volumes.append({"name": "api-keys", "secret": {"secretName": app.api_keys}})
        mounts.append({"name": "api-keys", "mountPath": commands.KEYS.rpartition("/")[0], "readOnly": True})
    container["volumeMounts"] = mounts
    if app.queue is not None and app.queue.secret is not None:
        container["env"] = [_secret_variable(plan.QUEUE_VARIABLES[0], app.queue.secret, "url")]
    return [
        _deployment(app, part, kind, _pod(container, volumes), app.gateway.replicas),
        _service(app, part, kind, ports),
        *_autoscaler(app, part, kind, app.gateway.replicas),
    ]


def _server(app: Application, server: Server, places: dict[str, str]) -> list[Tree]:
    kind, gpus = "server", gpus_of(server)
    command = commands.serve(server, plan.model(server, places))
    container = _container(app, "server", commands.target(server), command, {"http": server.rpc_port})
    container |= _probes(commands.LIVE, commands.ready_path(server), "http", LOADING_S)
    container |= _resources(server.resources, gpus)
    volumes: list[Tree] = [{"name": "state", "emptyDir": {}}]
    container["volumeMounts"] = [{"name": "state", "mountPath": STATE}]
    more: Tree = {}
    if commands.fetched(server) or plan.in_volume(server.model.uri):
        claim = {"claimName": _name(app, "artifacts")}
        volumes.append({"name": "artifacts", "persistentVolumeClaim": claim})
        container["volumeMounts"].append({"name": "artifacts", "mountPath": ARTIFACTS, "readOnly": True})
    if commands.fetched(server):
        more["initContainers"] = [_fetch(app, {server.model.uri: places[server.model.uri]})]
    if commands.target(server) == "vllm":
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        container["volumeMounts"].append({"name": "shared-memory", "mountPath": "/dev/shm"})
    if gpus:
        more["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        if nodes := affinity(server.resources):
            more["affinity"] = {"nodeAffinity": nodes}
    return [
        _deployment(app, server.name, kind, _pod(container, volumes, **more), server.replicas),
        _service(app, server.name, kind, {"http": server.rpc_port}, headless=True),
        *_autoscaler(app, server.name, kind, server.replicas),
    ]


def _fetch(app: Application, places: dict[str, str]) -> Tree:
    """One pod fetches, and those that start beside it wait."""
    container = _container(app, "fetch", "gateway", commands.fetch(places), {})
    container["volumeMounts"] = [{"name": "artifacts", "mountPath": ARTIFACTS}]
    if app.hf_token is not None:
        container["env"] = [_secret_variable("HF_TOKEN", app.hf_token, "token")]
    return container


def _volume(app: Application, part: str, pods: int) -> Tree:
    """pods: that read it."""
    spec: Tree = {
        "accessModes": [app.storage.access or ("ReadWriteMany" if pods > 1 else "ReadWriteOnce")],
        "resources": {"requests": {"storage": kubernetes_size(app.storage.size)}},
    }
    if app.storage.class_ is not None:
        spec["storageClassName"] = app.storage.class_
    meta = _meta(app, part, "storage")
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _redis(app: Application) -> list[Tree]:
    part = kind = "redis"
    ping = {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 10, "timeoutSeconds": 5}
    container = {
        "name": part,
        "image": plan.REDIS_IMAGE,
        "args": list(plan.REDIS_COMMAND),
        "ports": [{"name": "redis", "containerPort": REDIS}],
        "livenessProbe": ping,
        "readinessProbe": ping,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": _name(app, part)}}
    disk = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": kubernetes_size(REDIS_DISK)}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _meta(app, part, kind), "spec": disk},
        _deployment(app, part, kind, _pod(container, [claim]), None),
        _service(app, part, kind, {"redis": REDIS}),
    ]


def _worker(app: Application) -> Tree:
    part = kind = "worker"
    command = plan.worker(app, f"http://{_name(app, 'gateway')}:{app.gateway.port}", redis=_name(app, "redis"))
    container = _container(app, part, "gateway", command, {})
    variables = []
    if app.queue is not None and app.queue.secret is not None:
        variables.append(_secret_variable(plan.QUEUE_VARIABLES[1], app.queue.secret, "url"))
    if app.api_keys is not None:
        variables.append(_secret_variable(plan.WORKER_KEY, app.api_keys, "worker"))
    if variables:
        container["env"] = variables
    count = plan.workers(app)
    return _deployment(app, part, kind, _pod(container, []), Replicas(min=count, max=count))


def _closed(app: Application) -> Tree:
    """Servers and Redis ask nobody for a token: only pods of this application reach them."""
    spec = {
        "podSelector": {
            "matchLabels": {PART_OF: app.name},
            "matchExpressions": [{"key": COMPONENT, "operator": "In", "values": ["server", "redis"]}],
        },
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {PART_OF: app.name}}}]}],
    }
    meta = _meta(app, "closed", "network")
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}
