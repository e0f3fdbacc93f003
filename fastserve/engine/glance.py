"""Glance: how loaded an engine is, read by another thread without a lock and without a turn of the engine's.

Each number is read as it stands at that moment; two of them may be an iteration apart. Who needs the state between two
iterations takes a snapshot.
"""

from __future__ import annotations

from typing import NamedTuple

from fastserve.sched.job import NEVER
from fastserve.sched.scheduler import Scheduler


class Glance(NamedTuple):
    """Requests, and tokens. queued_tokens: of prompts, still to compute. expected_tokens: of outputs, still to come.

    free_tokens: of the device's KV pool, held by nobody and empty; cached_tokens: held by nobody and remembered.
    """

    waiting: int
    running: int
    slots: int
    queued_tokens: int
    expected_tokens: int
    free_tokens: int | None
    pool_tokens: int | None
    cached_tokens: int


def glance(scheduler: Scheduler, answer: float) -> Glance:
    """Any thread. answer: output tokens that are taken for one whose job has no guess, at most its limit."""
    jobs = list(scheduler.live)  # in one step of the interpreter, so the engine's thread cannot change it meanwhile
    running = min(len(scheduler.running), len(jobs))
    queued = expected = 0
    for job in jobs:
        generated = job.generated
        queued += max(0, job.prompt + generated - job.prefilled) if not job.rolling else 0
        guess = min(answer, job.limit) if job.guess is None else job.guess
        expected += max(0, round(guess) - generated)
    ledger, sharing = scheduler.ledger, scheduler.sharing
    cached = 0 if sharing is None else sharing.tree.idle_units * sharing.unit
    pool = None if ledger.blocks >= NEVER else ledger.blocks * ledger.block
    free = None if pool is None else max(0, pool - (ledger.used + ledger.cold) * ledger.block - cached)
    return Glance(len(jobs) - running, running, scheduler.slots, queued, expected, free, pool, cached)
