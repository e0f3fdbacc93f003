"""What is said first: which model is loaded, where, and what takes the time. Imports nothing that takes any itself."""

from __future__ import annotations

from fastserve.backends.options import MODELS
from fastserve.named_models import EMBEDDED


def loading(model: str, backend: str, policy: str, device: str = "auto", *, measures: bool = False) -> str:
    """What takes the first seconds, for people. measures: no latency model was given."""
    if backend == "scripted":
        return f"starting a scripted engine with policy {policy}: modelled times, no model"
    if backend not in MODELS:  # it need not load any
        return f"starting backend {backend} with policy {policy}" + ("" if model == EMBEDDED else f", model {model}")
    where = "the best device here" if device == "auto" else device
    if backend != "torch":
        where = f"backend {backend}"
    measured = " and, where no profile of it is stored, measuring its iteration times" if measures else ""
    return f"loading model {model} on {where} for policy {policy}{measured}: some seconds"
