"""A testbed for LLM-serving schedulers: one scheduler, in a simulator and on live engines."""

from typing import TYPE_CHECKING, Any

from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.policy import Policy

if TYPE_CHECKING:
    from fastserve.sched.conformance.check import check_policy
    from fastserve.server.run import FastServeServer

__all__ = ["FastServeServer", "Job", "Observer", "Policy", "check_policy"]


def __getattr__(name: str) -> Any:
    # Imported at first use: importlib.metadata and the checks cost more to import than everything else here.
    if name == "__version__":
        from importlib.metadata import version

        return version("fastserve-testbed")
    if name == "check_policy":
        from fastserve.sched.conformance.check import check_policy

        return check_policy
    if name == "FastServeServer":
        from fastserve.server.run import FastServeServer

        return FastServeServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
