"""Routers: which of several replicas gets a request. Shipped ones, one idea a file, and lookup by name, module:Class or
./file.py:Class. Standard library only, as sched.

Read in this order: view (what is known of a replica), router with errors (the page for authors), round_robin with
turns, random_choice and weighted; load, power_of_two, least_connections, least_tokens and freeness with sent_since;
rendezvous and session, sent_prefixes and prefix; then spec (name and settings of one), and conformance/ (what
`fastserve check --router` asks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.importing import class_of
from fastserve.routers.freeness import Freeness
from fastserve.routers.least_connections import LeastConnections
from fastserve.routers.least_tokens import LeastTokens
from fastserve.routers.power_of_two import PowerOfTwo
from fastserve.routers.prefix import Prefix
from fastserve.routers.random_choice import RandomChoice
from fastserve.routers.round_robin import RoundRobin
from fastserve.routers.router import Replica, Router, RouterError, RouterFacts, chosen
from fastserve.routers.session import Session
from fastserve.routers.view import ReplicaView
from fastserve.routers.weighted import Weighted
from fastserve.sched.keywords import made

__all__ = ["ROUTERS", "Replica", "ReplicaView", "Router", "RouterError", "RouterFacts", "chosen", "find", "make"]

ROUTERS: dict[str, type[Router]] = {
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "weighted": Weighted,
    # by load
    "power-of-two": PowerOfTwo,
    "least-connections": LeastConnections,
    "least-tokens": LeastTokens,
    "freeness": Freeness,
    # by what a replica has cached
    "session": Session,
    "prefix": Prefix,
}


def find(name: str) -> type[Router]:
    """The class behind a name of the table, whose dashes may be underscores, module:Class or ./file.py:Class; the
    current folder is importable. Raises ValueError with what was looked for and what there is.
    """
    shipped = ROUTERS.get(name.replace("_", "-"))
    return shipped or class_of("router", name, Router, ", ".join(ROUTERS))


def make(router: str | type[Router], settings: Mapping[str, Any] | None = None) -> Router:
    """A fresh router, by name or of a class. Raises ValueError for an unknown name or setting, or a refused value."""
    kind = find(router) if isinstance(router, str) else router
    return made(f"router {router if isinstance(router, str) else router.__name__}", kind, settings or {})
