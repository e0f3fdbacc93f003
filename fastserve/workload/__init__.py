"""Workloads: read, write, describe and synthesise request traces, and make requests of them.

Read: trace, reader/ (one format a file) and reading (what was taken for what), synthesis with arrivals (modulated:
of changing rates), lengths and attributes (priorities, clients, classes), seeds (which requests a seed has), requests,
session (who waits for whom), content and prompts (what they say), statistics, write.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.workload.errors import TraceError
    from fastserve.workload.profile import Profile, load_profile, profile_names
    from fastserve.workload.reader.read import read_trace
    from fastserve.workload.requests import TraceRequest, requests_of
    from fastserve.workload.statistics import Description, describe
    from fastserve.workload.synthesis import Synthesis, synthesise
    from fastserve.workload.trace import Trace
    from fastserve.workload.write import write_trace

__all__ = [
    "Description",
    "Profile",
    "Synthesis",
    "Trace",
    "TraceError",
    "TraceRequest",
    "describe",
    "load_profile",
    "profile_names",
    "read_trace",
    "requests_of",
    "synthesise",
    "write_trace",
]

_MODULES = {
    "Description": "statistics", "Profile": "profile", "Synthesis": "synthesis", "Trace": "trace",
    "TraceError": "errors", "TraceRequest": "requests", "describe": "statistics", "load_profile": "profile",
    "profile_names": "profile", "read_trace": "reader.read", "requests_of": "requests", "synthesise": "synthesis",
    "write_trace": "write",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imported at first use: a command line that only shows its help needs no numpy."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
