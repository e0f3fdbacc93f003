"""The table of latency kinds, and the one way from JSON to a model."""

from __future__ import annotations

from collections.abc import Callable

from fastserve.sched.latency.base import LatencyModel
from fastserve.sched.latency.linear import read_linear
from fastserve.sched.latency.strict import Fields

KINDS: dict[str, Callable[[Fields], LatencyModel]] = {"linear": read_linear}


def latency_from_json(data: object, where: str) -> LatencyModel:
    """`where` names the source in messages. ValueError says what is wrong and what is valid."""
    fields = Fields(data, where)
    kind = fields.text("kind")
    if kind not in KINDS:
        found = f"unknown kind {kind!r}" if "kind" in fields else "the key 'kind' is missing"
        raise ValueError(f"{where}: {found}; valid kinds: {', '.join(KINDS)}")
    return KINDS[kind](fields)
