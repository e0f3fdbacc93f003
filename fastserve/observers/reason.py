"""Why a plan takes places away, in words."""

from __future__ import annotations

from fastserve.sched.plan import Plan
from fastserve.sched.scheduler import Scheduler


def why_left(plan: Plan, scheduler: Scheduler) -> str:
    """Before the plan is committed."""
    ledger = scheduler.ledger
    takers = ", ".join([f"job {job.id}" for job in plan.joined])
    if ledger.used > ledger.blocks:
        return "the running jobs outgrew the KV pool" + (f" ({takers} joined)" if takers else "")
    if len(plan.running) < scheduler.slots:
        return f"its KV room was needed by {takers}"
    return f"its place was needed by {takers}"
