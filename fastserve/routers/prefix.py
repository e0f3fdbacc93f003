"""Prefix: the replica that has the longest beginning of the prompt cached, unless it is too loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fastserve.routers.router import Router
from fastserve.routers.sent_prefixes import SentPrefixes
from fastserve.routers.sent_since import SentSince
from fastserve.routers.turns import Turns
from fastserve.routers.view import ReplicaView
from fastserve.sched.checks import at_least, number, one_of
from fastserve.sched.job import NEVER, Job

RULES = ("cost", "e2")


class Prefix(Router):
    """What a replica has cached is what was sent there, in the order of last use, as far as its pool takes it.

    rule: `cost` is Dynamo's: min(prefill * (queued + prompt - cached) + decode * outstanding) over weight, in tokens:
    what is before the first token, and what decodes beside it; a hit counts as much as the work that it saves. queued
    is as the view tells and what was sent since, outstanding is prompt + guess of all that was sent and has not ended.
    `e2` is Preble's (arXiv 2407.00023): exploit, the least cost of those with the longest hit, where more than half of
    the prompt is cached there, unless their cost is above `overload` times the least of all; else explore, the least
    cost of all. Ties in turn.

    most: ids that are remembered of each replica (job.ids; of a prompt of 100,000 tokens 1,563 at 64 tokens each).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"guess", "prefixes"})

    def __init__(
        self,
        rule: str = "cost",
        prefill: float = 1.0,
        decode: float = 1.0,
        overload: float = 2.0,
        most: int = 50_000,
    ) -> None:
        one_of("rule", rule, RULES)
        number("prefill", prefill, 0)
        number("decode", decode, 0)
        number("overload", overload, 1)
        at_least("most", most, 1)
        self.rule = rule
        self.prefill = prefill
        self.decode = decode
        self.overload = overload
        self.cached = SentPrefixes(most)
        self.turns = Turns()
        self.since = SentSince()
        self.rooms: dict[int, int] = {}  # replica -> tokens of its KV pool, where a view has told
        self.hit = 0  # tokens cached, of the last choice

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        for view in views:
            room = view.pool_tokens
            if room is not None:
                self.rooms[view.replica] = room
        hits = [self._hit(job, view.replica) for view in views]
        costs = [self._cost(job, view, hit, 0) for view, hit in zip(views, hits, strict=True)]
        for late, missing in self.since.missing(views, job):
            costs[late] = self._cost(job, views[late], hits[late], missing.prompt)
        index = self._exploit(job, views, hits, costs) if self.rule == "e2" else None
        if index is None:
            index = self.turns.least(views, costs)
        self.hit = hits[index]
        return index

    def _hit(self, job: Job, replica: int) -> int:
        """Tokens; the newest of the prompt is always computed."""
        if not job.ids:
            return 0
        return min(self.cached.found(replica, job.ids) * self.facts.unit_tokens, job.prompt - 1)

    def _cost(self, job: Job, view: ReplicaView, hit: int, sent: int) -> float:
        """sent: tokens that are missing in the view."""
        queued = view.queued_tokens + sent
        return (self.prefill * (queued + job.prompt - hit) + self.decode * view.outstanding_tokens) / view.weight

    def _exploit(
        self, job: Job, views: Sequence[ReplicaView], hits: Sequence[int], costs: Sequence[float]
    ) -> int | None:
        longest = max(hits)
        if 2 * longest <= job.prompt:
            return None
        holders = [index for index, hit in enumerate(hits) if hit == longest]
        least = min(costs[index] for index in holders)
        if least > self.overload * min(costs):
            return None
        return self.turns.take(views, [index for index in holders if costs[index] == least])

    def sent(self, job: Job, replica: int, now: int) -> None:
        self.since.note(job, replica, now, job.prompt - self._hit(job, replica))
        if job.ids:
            room = self.rooms.get(replica, NEVER) // max(1, self.facts.unit_tokens)
            self.cached.note(replica, job.ids, max(1, room))

    def lost(self, replica: int, now: int) -> None:
        self.cached.forget(replica)
        self.turns.forget(replica)
        self.since.forget(replica)
        self.rooms.pop(replica, None)

    def explain(self, job: Job) -> str:
        return f"{self.hit:,} of {job.prompt:,} tokens cached"
