"""Which nodes have a GPU that is large and new enough, by the labels of NVIDIA's GPU feature discovery."""

from __future__ import annotations

from typing import Any

from fastserve.deploy.quantities import MIB
from fastserve.deploy.schema import Resources

MEMORY = "nvidia.com/gpu.memory"
"""Of a GPU, in MiB."""

MAJOR, MINOR = "nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor"


def affinity(resources: Resources) -> dict[str, Any]:
    """A nodeAffinity; empty where nothing is asked for. Terms are alternatives, expressions of one hold together."""
    memory: list[dict[str, Any]] = []
    if resources.gpu_memory is not None:  # 24 GB are 22,888 MiB: what a card sold as 24 GB has at least
        memory.append(_more(MEMORY, resources.gpu_memory // MIB))
    alternatives: list[list[dict[str, Any]]] = [[]]
    if resources.gpu_cuda_capability is not None:
        major, minor = resources.gpu_cuda_capability
        alternatives = [[_more(MAJOR, major)]]
        if minor:
            alternatives = [
                [_more(MAJOR, major + 1)],
                [{"key": MAJOR, "operator": "In", "values": [str(major)]}, _more(MINOR, minor)],
            ]
    terms = [{"matchExpressions": [*each, *memory]} for each in alternatives if each or memory]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}} if terms else {}


def _more(key: str, least: int) -> dict[str, Any]:
    """At least so much: Kubernetes knows only more than."""
    return {"key": key, "operator": "Gt", "values": [str(least - 1)]}
