"""A testbed for LLM-serving schedulers: one scheduler, in a simulator and on live engines."""

from typing import TYPE_CHECKING, Any

from fastserve.sched.job import Job
from fastserve.sched.policy import Policy

if TYPE_CHECKING:
    from fastserve.routers.conformance import check_router
    from fastserve.routers.router import Router
    from fastserve.routers.view import ReplicaView
    from fastserve.sched.conformance import check_policy
    from fastserve.sched.observer import Observer
    from fastserve.server.run import FastServeServer

__all__ = ["FastServeServer", "Job", "Observer", "Policy", "ReplicaView", "Router", "check_policy", "check_router"]

_HOMES = {
    "FastServeServer": "fastserve.server.run",
    "Observer": "fastserve.sched.observer",
    "ReplicaView": "fastserve.routers.view",
    "Router": "fastserve.routers.router",
    "check_policy": "fastserve.sched.conformance",
    "check_router": "fastserve.routers.conformance",
}
"""Imported at first use: they cost more to import than everything else here."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from fastserve.package_version import package_version

        return package_version()
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
