"""How the members of a batch share one iteration: who prefills how many tokens, and whether the others decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fastserve.sched.job import NEVER, Job
from fastserve.sched.plan import NOTHING

Chunks = list[tuple[Job, int]]
Found = Mapping[Job, int]  # tokens that are there already, of who joins with this plan


def owed(job: Job) -> int:
    """Tokens that its prefill still has to process; after a recompute, those that it had generated too."""
    return job.prompt + job.tokens_base - job.prefilled


class Batching:
    """budget: tokens an iteration (decodes take one each). The best-ranked prefill is never refused for its size."""

    name: ClassVar[str] = ""
    decodes_wait: ClassVar[bool] = False  # do decodes idle while somebody prefills?
    gated: ClassVar[bool] = False  # must may_join() be asked?

    def __init__(self, budget: int = NEVER, timeout: int = 1_000_000_000) -> None:
        self.budget = budget
        self.timeout = timeout  # ns; of static batching

    def check(self, slots: int) -> None:
        """Raises ValueError if this shape cannot serve a batch of so many slots."""
        if self.budget < 1:
            raise ValueError(f"a token budget of {self.budget} can never be met; give at least 1")

    def may_join(self, now: int, running: int, slots: int, waiting: int, oldest: int) -> bool:
        """Is admission open? waiting: how many wait; oldest: ns, when the first of them arrived."""
        return True

    def opens_at(self, oldest: int) -> int:
        """ns: when admission opens by itself, if it is closed."""
        return NEVER

    def chunks(self, prefills: list[Job], decodes: int, found: Found = NOTHING) -> Chunks:
        """prefills: members with a prefill to do, best first. decodes: members that would decode."""
        raise NotImplementedError


class Mixed(Batching):
    """Whole prefills and decodes in one iteration (Orca's selective batching). Stops at the first that does not fit."""

    name: ClassVar[str] = "mixed"

    def chunks(self, prefills: list[Job], decodes: int, found: Found = NOTHING) -> Chunks:
        left = self.budget - (0 if self.decodes_wait else decodes)
        chunks: Chunks = []
        for job in prefills:
            tokens = owed(job)
            if found:
                tokens -= found.get(job, 0)
            if chunks and tokens > left:
                break
            chunks.append((job, tokens))
            left -= tokens
        return chunks


class PrefillFirst(Mixed):
    """While anybody has a prefill to do, the others idle (early vLLM)."""

    name: ClassVar[str] = "prefill-first"
    decodes_wait: ClassVar[bool] = True


class Chunked(Batching):
    """Decodes first, then pieces of prefills up to the budget (Sarathi-Serve's stall-free batching)."""

    name: ClassVar[str] = "chunked"

    def check(self, slots: int) -> None:
        if self.budget <= slots:
            raise ValueError(
                f"chunked batching with a token budget of {self.budget} and a batch cap of {slots} may starve "
                f"a prefill: decodes alone can fill the budget; make it larger than the batch cap"
            )

    def chunks(self, prefills: list[Job], decodes: int, found: Found = NOTHING) -> Chunks:
        left = self.budget - decodes
        chunks: Chunks = []
        for job in prefills:
            tokens = job.prompt + job.tokens_base - job.prefilled  # owed(job)
            if found:
                tokens -= found.get(job, 0)
            if tokens > left:
                tokens = left
            if tokens <= 0:
                break
            chunks.append((job, tokens))
            left -= tokens
        return chunks


class Static(Mixed):
    """A batch is formed when it is full, or `timeout` ns after the first has come, and nobody joins until it has ended.

    FasterTransformer's way, and that of queue-and-wait servers. A job is answered when it ends; its slot stays empty.
    """

    name: ClassVar[str] = "static"
    gated: ClassVar[bool] = True

    def may_join(self, now: int, running: int, slots: int, waiting: int, oldest: int) -> bool:
        return not running and (waiting >= slots or now >= oldest + self.timeout)

    def opens_at(self, oldest: int) -> int:
        return oldest + self.timeout


BATCHINGS: dict[str, type[Batching]] = {cls.name: cls for cls in (Mixed, PrefillFirst, Chunked, Static)}
BUDGETS: dict[str, int] = {"mixed": 2048, "prefill-first": 2048, "chunked": 512, "static": NEVER}
"""Tokens an iteration unless given: the artifact's and vLLM's limit, and Sarathi's chunk."""


def usual_budget(batching: str, slots: int) -> int:
    """Tokens an iteration unless given; that of chunks is twice the slots where they are many, lest prefills starve."""
    return max(BUDGETS[batching], 2 * slots) if batching == "chunked" else BUDGETS[batching]
