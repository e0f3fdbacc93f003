"""Who is held back by its policy, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.sched.job import Job


def held_jobs(scheduler: Any) -> Mapping[Job, None]:
    """Those that are held back now."""
    holding = getattr(scheduler, "holding", None)
    return {} if holding is None else dict(holding.jobs)


def is_held(job: Job) -> bool:
    return bool(getattr(job, "held_back", False))


def held_ns(job: Job) -> int:
    """ns for which it has been held back, so far."""
    return int(getattr(job, "held", 0))


def overruled(job: Job) -> bool:
    """It joined though it was held back: nothing else ran."""
    return bool(getattr(job, "overruled", False))
