"""Iterations that yield another number of tokens than one: what an Outcome may say of them."""

from __future__ import annotations

from fastserve.sched.job import NOWHERE, Job
from fastserve.sched.plan import Outcome, Plan


def check_extra(plan: Plan, outcome: Outcome, lookahead: int) -> None:
    """Before the plan is committed. Raises ValueError, naming the job, for what an Outcome's `extra` must not say."""
    if outcome.iterations != 1:
        raise ValueError(
            f"{outcome.iterations} iterations at once, and `extra` tells of jobs that got more or fewer tokens than "
            f"one: an uneven body must come back after each iteration"
        )
    seen: set[Job] = set()
    for job, delta in outcome.extra:
        if job in seen:
            raise ValueError(f"`extra` names job {job.id} twice; add its tokens up")
        seen.add(job)
        if delta < -1:
            raise ValueError(f"`extra` takes tokens away from job {job.id} ({delta}); the least is -1, no token")
        if delta > lookahead:
            raise ValueError(
                f"job {job.id} got {1 + delta} tokens from one iteration, and blocks are reserved for {1 + lookahead}; "
                f"set lookahead to {delta} or more"
            )
        if not speaks(plan, job):
            raise ValueError(f"`extra` names job {job.id}, which neither decodes nor ends its prefill in this plan")
        if job.generated + 1 + delta > job.limit:
            raise ValueError(
                f"job {job.id} got {1 + delta} tokens and would have {job.generated + 1 + delta} of at most "
                f"{job.limit}; a body ends a job at its limit and tells of no token beyond"
            )


def speaks(plan: Plan, job: Job) -> bool:
    """Is it a member that yields a token in an even iteration of this plan?"""
    if job.rolling:
        return plan.batch > 0 and job not in plan.left
    for other, tokens in plan.prefill:
        if other is job:
            return plan.completes(job, tokens)
    return plan.batch > 0 and job.place is not NOWHERE and job in plan.joined
