"""What an iteration charges its members: policies count it as service."""

from __future__ import annotations

from typing import ClassVar

from fastserve.sched.alarms import Alarms
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan


class Charging:
    """An iteration's whole time to each member (FastServe's convention)."""

    name: ClassVar[str] = "iteration"
    even: ClassVar[bool] = True  # every running job is charged the same, so that one clock stands for all of them

    def charge(self, plan: Plan, service: int, prefilling: dict[Job, None], alarms: Alarms) -> int:
        """ns that the service clock moves for `service` ns of iterations. prefilling: running, with a prefill to do."""
        return service


class ByTokens(Charging):
    """Each token of the iteration costs the same: the clock shows what a decode is charged, prefills are offset."""

    name: ClassVar[str] = "tokens"
    even: ClassVar[bool] = False

    def charge(self, plan: Plan, service: int, prefilling: dict[Job, None], alarms: Alarms) -> int:
        tokens = plan.batch + sum([n for _, n in plan.prefill])
        each = service // tokens if tokens else 0  # (of an amended plan, where nothing ran)
        decode = each if plan.batch else 0
        chunks = dict(plan.prefill)
        for job in prefilling:
            job.clock_base += each * chunks.get(job, 0) - decode
            alarms.watch_served(job)
        return decode


CHARGINGS: dict[str, type[Charging]] = {cls.name: cls for cls in (Charging, ByTokens)}
