"""Registry of latency model kinds, and the constructor from JSON."""

from __future__ import annotations

from collections.abc import Callable

from fastserve.hardware.base import LatencyModel
from fastserve.hardware.json_fields import Fields
from fastserve.hardware.linear import read_linear
from fastserve.hardware.roofline import read_roofline
from fastserve.hardware.table import read_table

KINDS: dict[str, Callable[[Fields], LatencyModel]] = {
    "linear": read_linear,
    "roofline": read_roofline,
    "table": read_table,
}


def latency_from_json(data: object, where: str) -> LatencyModel:
    """`where` names the source in messages. ValueError says what is wrong and what is valid."""
    fields = Fields(data, where)
    kind = fields.text("kind")
    if kind not in KINDS:
        found = f"unknown kind {kind!r}" if "kind" in fields else "the key 'kind' is missing"
        raise ValueError(f"{where}: {found}; valid kinds: {', '.join(KINDS)}")
    return KINDS[kind](fields)
