"""Load of a replica: the numbers that routers compare, by name."""

from __future__ import annotations

from collections.abc import Callable

from fastserve.routers.view import ReplicaView
from fastserve.sched.checks import one_of

LOADS: dict[str, Callable[[ReplicaView], int]] = {
    "outstanding": lambda view: view.outstanding,
    "outstanding-tokens": lambda view: view.outstanding_tokens,
    "jobs": lambda view: view.waiting + view.running,
    "tokens": lambda view: view.queued_tokens + view.expected_tokens,
}
"""The first two the sender counts itself; the others are as old as the view."""


def load_named(name: str) -> Callable[[ReplicaView], int]:
    """Raises ValueError for a name that is none."""
    one_of("load", name, LOADS)
    return LOADS[name]
