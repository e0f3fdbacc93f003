"""The KV pool as our Scheduler is to see it: what vLLM has, in the Scheduler's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.sched.job import Job
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.units import Run


def pool_of(scheduler: Scheduler, requests: Mapping[Job, Any], free: int) -> int:
    """Blocks: those of its jobs and free ones, less those that its jobs have yet to take.

    So whatever else lies in vLLM's pool, and whatever is shared there without our knowledge, is in it; where our books
    are right it stays the same. requests: job -> vLLM's request. free: blocks that nobody holds in vLLM.
    """
    ledger = scheduler.ledger
    block = ledger.block
    at = 1 - scheduler.meter.steps
    owed = ledger.phase[at % block]
    for more in range(1, ledger.lookahead + 1):
        owed += ledger.phase[(at + more) % block]
    begun: dict[Run, int] = {}  # units of jobs that vLLM has not started -> of how many of them
    for job in scheduler.prefilling:
        owed += ledger.need(job)
        computed = requests[job].num_computed_tokens
        if computed:
            owed -= -(-computed // block)
        elif job.shared:
            owed -= job.shared
            run = job.tail
            while run is not None:
                begun[run] = begun.get(run, 0) + 1
                run = run.parent
    for run, jobs in begun.items():
        if run.holders == jobs:  # nobody else has them: they will come from what is free, once
            owed += run.end - run.start
    return ledger.used + ledger.cold + free - owed
