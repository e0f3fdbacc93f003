"""The live engine: the Scheduler of fastserve.sched drives a backend, iteration by iteration.

Importing this package does not import torch: names are loaded from their modules at first use, and an engine on the
scripted backend never needs torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.engine.engine import Engine
    from fastserve.engine.params import SamplingParams
    from fastserve.engine.request import Handle, Output

__all__ = ["Engine", "Handle", "Output", "SamplingParams"]

# A thread of the OpenMP pool spins this many rounds at a barrier before it sleeps. The default spins for milliseconds,
# which starves the very thread it waits for once a neighbour holds a core. It must be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {"Engine": "engine", "Handle": "request", "Output": "request", "SamplingParams": "params"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fastserve.engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
