"""ClusterSettings: how many replicas, what each is like, the router between them, and what befalls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from fastserve.routers import Replica
from fastserve.routers.spec import RouterLike, RouterSpec
from fastserve.sched.checks import at_least, seconds
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.keywords import argument
from sim.cluster.faults import Fault, faults_of

ROUTER: Final = "round-robin"
"""Where there are replicas and nobody says which."""
MOST_REPLICAS: Final = 10_000
"""Each has a Scheduler of its own, some 60 KB."""
RESEND: Final = ("unstarted", "all")
MACHINE: Final = ("latency", "kv_tokens", "host_tokens", "link_gb_s", "link_latency", "duplex", "speculate")
OWN: Final = ("weight", "name", *MACHINE, *(field.name for field in fields(SchedulerConfig)))
"""What a replica may have of its own."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Of one replica, without a router, all that follows is without effect. Raises ValueError for what cannot work."""

    replicas: int = 1
    """servers behind the router, each with a Scheduler and a machine of its own"""
    router: RouterLike | None = None
    """which of them gets a request (round-robin): a name, module:Class, ./file.py:Class, a class or a RouterSpec"""
    replica: tuple[str, ...] = ()
    """one replica that differs from the others: weight=2,latency=...,max_batch=...,kv_tokens=..., or any other setting
    of its machine and Scheduler"""
    view_delay: float = 0.0
    """seconds by which the router's views of the replicas are old; what it has sent itself it knows"""
    hop: float = 0.0
    """seconds that a request takes from the router to its replica"""
    fail: tuple[str, ...] = ()
    """REPLICA@SECONDS, or REPLICA@SECONDS:back@SECONDS: it dies, and may come back with empty caches"""
    drain: tuple[str, ...] = ()
    """the same, but it finishes what it has and gets no more"""
    resend: str = RESEND[0]
    """whose requests a replica that fails has are sent again: unstarted, of which no token has come (the others end
    with an error, as through the gateway), or all"""

    def __post_init__(self) -> None:
        at_least("replicas", self.replicas, 1, MOST_REPLICAS)
        for name in ("replica", "fail", "drain"):
            value: object = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))  # type: ignore[arg-type]
        if self.router is not None and not isinstance(self.router, RouterSpec):
            object.__setattr__(self, "router", RouterSpec.of(self.router))
        if self.replica and self.replicas == 1:
            object.__setattr__(self, "replicas", len(self.replica))
        if len(self.replica) > self.replicas:
            raise ValueError(f"replicas={self.replicas}, but {len(self.replica)} are described: give as many at most")
        seconds("view_delay", self.view_delay)
        seconds("hop", self.hop)
        if self.resend not in RESEND:
            raise ValueError(f"resend={self.resend!r} must be one of {', '.join(RESEND)}")
        _ = self.faults, self.named

    @property
    def in_cluster(self) -> bool:
        """Whether there is a router at all."""
        given = self.replicas > 1 or self.router is not None or self.replica or self.fail or self.drain
        return bool(given or self.hop or self.view_delay)

    @property
    def router_spec(self) -> RouterSpec:
        return self.router if isinstance(self.router, RouterSpec) else RouterSpec.of(self.router or ROUTER)

    @property
    def router_title(self) -> str:
        """Its name, and what it was given."""
        spec = self.router_spec
        return " ".join([spec.name, *[f"{key}={value}" for key, value in spec.knobs.items()]])

    @property
    def faults(self) -> tuple[Fault, ...]:
        return faults_of(self.fail, self.drain, self.replicas)

    @property
    def named(self) -> list[Replica]:
        """Name and weight of each replica, by number."""
        found = []
        for number in range(self.replicas):
            own = self.own(number)
            name, weight = str(own.get("name", f"r{number}")), own.get("weight", 1)
            if not isinstance(weight, int | float) or not 0 < weight < 1e9:
                raise ValueError(f"replica {name}: weight={weight!r} must be a number above 0")
            found.append(Replica(name, float(weight)))
        names = [replica.name for replica in found]
        if len(set(names)) < len(names):
            raise ValueError(f"replicas must have different names, not {', '.join(names)}")
        return found

    def own(self, number: int) -> Mapping[str, Any]:
        """What this replica has of its own, by name."""
        if number >= len(self.replica):
            return {}
        text = self.replica[number]
        found = dict(argument(part) for part in text.split(",") if part)
        for name in found:
            if name not in OWN:
                raise ValueError(f"replica={text!r}: {name!r} is none of {', '.join(OWN)}")
        return found


FIELDS: Final = tuple(field.name for field in fields(ClusterSettings))
ALONE: Final[Mapping[str, Any]] = {field.name: field.default for field in fields(ClusterSettings)}
"""Of a run without a router."""
