"""Skip-join MLFQ: the scheduler of FastServe (arXiv 2305.05920, Algorithm 1; NSDI'26)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastserve.policies.mlfq import Mlfq
from fastserve.sched.checks import one_of
from fastserve.sched.job import Job

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "artifact": {
        "q1": 0.010,
        "levels": "unbounded",
        "strict": True,
        "reinsert": "front",
        "alpha": 3.0,
        "check": 1000,
        "promote_to": "front",
        "reset": False,
        "eviction": "priority",
    },
}
"""What the paper says (the defaults), and what the released code does (scheduler.py of its snapshot 187a274)."""


class SkipJoinMlfq(Mlfq):
    """MLFQ in which a job joins the first level whose quantum covers its prefill.

    preset: "paper" or "artifact"; any other keyword, as Mlfq's, overrides it.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def __init__(self, preset: str = "paper", **knobs: Any) -> None:
        one_of("preset", preset, PRESETS)
        construct: Any = Mlfq.__init__  # compiled, super().__init__(**dict) mistakes typed keywords
        construct(self, **(PRESETS[preset] | knobs))

    def first_level(self, job: Job) -> int:
        return self.covering(self.machine.prefill_ns(job.prompt))
