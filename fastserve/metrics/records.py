"""Recorder: one record per job, with one schema for simulated and live runs.

A Recorder is the Observer that both drivers tell first. Its cost per committed plan is proportional to what changed:
gaps between tokens common to the batch go on a monotonic stack of maxima over the iterations, and a job looks them up
once for each visit.

Several tokens of one iteration come together, at its end: there is no gap between them. A job that gets none of an
iteration is out of step with the batch until its next token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any

import numpy as np

from fastserve.metrics.columns import COLUMNS, FINISHES, NO_SLO, NUMBERS, Columns, Slo, columns_of, empty
from fastserve.sched.job import Copy, Job
from fastserve.sched.observer import Observer, Run
from fastserve.sched.plan import Outcome, Plan

__all__ = ["COLUMNS", "NO_SLO", "Columns", "Recorder", "Slo"]

PACK = Struct(f"{len(NUMBERS)}q").pack
FLUSH = 20_000  # rows kept as whole numbers before they go into columns


class Trail:
    """What is remembered of a job while it lives. Times in ns."""

    __slots__ = (
        "accepted", "blocks_in", "blocks_out", "cached", "computed", "drafted", "first", "gap", "last", "left",
        "loaded", "mark", "preempted", "queued", "stall", "stalled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.queued = -1  # until its first place in the batch
        self.first = -1  # when its first token came
        self.last = -1  # when its last token came, while that is not the batch's own last
        self.left = -1  # when it last gave up its place
        self.mark = 0  # iterations from this number on have given it tokens in step with the batch
        self.gap = 0
        self.preempted = 0
        self.stall = 0  # the stall clock when it joined
        self.stalled = 0
        self.computed = 0  # tokens that its prefills have processed
        self.cached = 0  # tokens that were there when it first joined
        self.loaded = 0  # of these, those that came from the host
        self.drafted = 0  # guesses of its tokens that were verified
        self.accepted = 0  # and were right
        self.blocks_out = 0
        self.blocks_in = 0


class Recorder(Observer):
    """block_bytes: of a KV block. alone: (prompt, output tokens) -> ps on an empty machine. slo: job id -> SLOs, s.

    turn: job id -> its place among its program's requests, from 1. slo_class: job id -> its class of service.
    keep: rows that are kept at least; older ones may go, as a server that runs for months must have it. None keeps all.
    watch: told of each job's row, by column, when it is made.
    """

    def __init__(
        self,
        block_bytes: int = 0,
        alone: Callable[[int, int], int] | None = None,
        slo: Callable[[int], Slo] | None = None,
        *,
        turn: Callable[[int], int] | None = None,
        slo_class: Callable[[int], str] | None = None,
        keep: int | None = None,
        watch: Callable[[Job, dict[str, Any]], object] | None = None,
    ) -> None:
        self.keep = keep
        self.watch = watch
        self.flush = FLUSH if keep is None else min(FLUSH, max(1, keep))
        self.block_bytes = block_bytes
        self.alone = alone
        self.slo = slo
        self.turn = turn
        self.slo_class = slo_class
        self.trails: dict[Job, Trail] = {}
        self.rows = bytearray()  # the NUMBERS of each
        self.texts: list[tuple[str, str, str]] = []  # client, program and class of each
        self.slos: list[Slo] = []  # of each, where there are any
        self.finishes = dict(FINISHES)
        self.parts: list[Columns] = []
        self.stall = 0  # ns of stall so far
        self.waited = 0  # ns since the batch last decoded, through iterations in which decodes idle
        self.token_at = 0  # ns: when the batch last decoded
        self.fetched: set[Copy] = set()  # prefetches that a load may yet wait for
        self.awaiting: dict[Job, Trail] = {}  # whose next token closes a gap of their own
        self.count = 0
        self.peaks: list[tuple[int, int]] = []  # (number, ns), falling: the longest gap from that iteration on
        self.horizon = 0
        self.iterations = 0
        self.decodes = 0  # jobs that decoded, summed over the iterations
        self.beyond = 0  # tokens that iterations gave to jobs beyond one each
        self.plans = 0
        self.joins = 0
        self.leaves = 0
        self.live: dict[Job, None] = {}  # the Scheduler's own
        self.block = 0  # tokens of a KV block

    # -- what the driver tells -------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.live = run.scheduler.live
        self.block = run.scheduler.ledger.block

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        trails = self.trails
        self.plans += 1
        self.iterations += outcome.iterations
        self.decodes += outcome.iterations * plan.batch
        if plan.left:
            self._evicted(plan.left, plan.now)
        self.stall += outcome.stall
        if plan.joined:
            self._joined(plan, outcome.stall)
        if plan.moves:
            self._copies(plan)
        if self.fetched:
            self.fetched.difference_update(outcome.copied)
        silent = None
        if outcome.extra:
            self.beyond += sum([delta for _, delta in outcome.extra])
            silent = self._silent(outcome)
        if plan.batch:
            if self.awaiting:
                self._awaited(plan.now, outcome, now)
            else:
                self.count += 1
                gap = self.waited + outcome.first
                if outcome.gap > gap:
                    gap = outcome.gap
                peaks = self.peaks
                while peaks and peaks[-1][1] <= gap:
                    peaks.pop()
                peaks.append((self.count, gap))
            self.token_at = now
            self.waited = 0
        else:
            self.waited += outcome.service + outcome.stall
        for job, tokens in plan.prefill:
            trail = trails[job]
            trail.computed += outcome.iterations * tokens
            if (job.rolling or job.finish) and (silent is None or job not in silent):
                self._prefilled(job, trail, now)
        if silent:
            self.awaiting.update(silent)
        for job, drafted, accepted in outcome.drafts:
            trail = trails[job]
            trail.drafted += drafted
            trail.accepted += accepted
        for job in finished:
            self._finish(job, now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        self._evicted(lost, now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        job.finish = "rejected"
        self._row(job, Trail(), job.arrival, "rejected")

    def cancelled(self, job: Job, now: int) -> None:
        self._finish(job, now)

    def ended(self, now: int) -> None:
        """Who still lives is unfinished."""
        self.horizon = now
        for job in self.live:
            self._finish(job, now, "unfinished")

    def first_token(self, job: Job) -> int:
        """ns at which a live job had its first token; -1 if it has had none."""
        trail = self.trails.get(job)
        return -1 if trail is None else trail.first

    @property
    def tokens_per_decode(self) -> float | None:
        """Tokens that an iteration gives to a job that decodes, mean: 1 where nothing is guessed; None without any."""
        return (self.decodes + self.beyond) / self.decodes if self.decodes else None

    # -- gaps and visits -------------------------------------------------------------------------------------------

    def _evicted(self, jobs: Iterable[Job], at: int) -> None:
        """They have lost their places, at `at` (ns)."""
        for job in jobs:
            trail = self.trails[job]
            self.leaves += 1
            trail.left = at
            trail.stalled += self.stall - trail.stall
            self._settle(job, trail)

    def _settle(self, job: Job, trail: Trail) -> None:
        """It is no longer in step with the batch: note its longest gap and its last token."""
        if job in self.awaiting:
            del self.awaiting[job]
        elif trail.last < 0 and trail.first >= 0:
            trail.last = self.token_at
            peaks = self.peaks
            at = bisect_left(peaks, (trail.mark, -1))
            if at < len(peaks) and peaks[at][1] > trail.gap:
                trail.gap = peaks[at][1]

    def _joined(self, plan: Plan, stall: int) -> None:
        for job in plan.joined:
            self.joins += 1
            trail = self.trails.get(job)
            if trail is None:
                trail = self.trails[job] = Trail()
                trail.queued = plan.now - job.arrival
                if plan.shares is not None:
                    trail.cached = plan.shares.found.get(job, 0)
            else:
                trail.preempted += plan.now - trail.left
            trail.stall = self.stall - stall
            if (job.rolling or job.finish) and job not in [other for other, _ in plan.prefill]:
                self.awaiting[job] = trail

    def _silent(self, outcome: Outcome) -> dict[Job, Trail]:
        """Who got no token from this iteration, with the longest gap and the last token before it noted."""
        silent: dict[Job, Trail] = {}
        for job, delta in outcome.extra:
            if delta < 0:
                silent[job] = trail = self.trails[job]
                self._settle(job, trail)
        return silent

    def _copies(self, plan: Plan) -> None:
        for copy in plan.park:
            self.trails[copy.job].blocks_out += copy.blocks
        for copy in plan.prefetch:
            self.trails[copy.job].blocks_in += copy.blocks
            self.fetched.add(copy)
        for copy in plan.load:
            if copy in self.fetched:
                self.fetched.remove(copy)
                continue
            trail = self.trails[copy.job]
            trail.blocks_in += copy.blocks
            if copy.units is not None and trail.left < 0:  # with its first place in the batch
                trail.loaded = copy.blocks * self.block

    def _awaited(self, start: int, outcome: Outcome, now: int) -> None:
        """A decode that gives tokens to those in `awaiting` too: they are in step from its second iteration on."""
        self.count += 1
        self._push(self.waited + outcome.first)
        self.count += 1
        token = start + outcome.first
        for trail in self.awaiting.values():
            if trail.first < 0:  # its prefill has yielded none, and whoever has none is looked at each iteration
                trail.first = now
            elif token - trail.last > trail.gap:
                trail.gap = token - trail.last
            trail.last = -1
            trail.mark = self.count
        self.awaiting.clear()
        if outcome.gap:
            self._push(outcome.gap)

    def _push(self, gap: int) -> None:
        peaks = self.peaks
        while peaks and peaks[-1][1] <= gap:
            peaks.pop()
        peaks.append((self.count, gap))

    def _prefilled(self, job: Job, trail: Trail, now: int) -> None:
        """Its prefill is complete and has yielded a token."""
        if trail.first < 0:
            trail.first = now
        elif now - trail.last > trail.gap:
            trail.gap = now - trail.last
        trail.last = now
        self.awaiting[job] = trail

    # -- records ---------------------------------------------------------------------------------------------------

    def _finish(self, job: Job, now: int, finish: str = "") -> None:
        trail = self.trails.pop(job, None)
        if trail is None:
            trail = Trail()
            trail.queued = now - job.arrival
        elif job.running or job.last > trail.left:
            trail.stalled += self.stall - trail.stall
            self._settle(job, trail)
        else:
            trail.preempted += now - trail.left
        self._row(job, trail, now, finish or job.finish)

    def _row(self, job: Job, trail: Trail, now: int, finish: str) -> None:
        tokens = job.generated
        hold = job.hold
        row: bytes = PACK(
            job.id,
            job.arrival,
            job.prompt,
            tokens,
            self.finishes.setdefault(finish, len(self.finishes)),
            trail.first,
            now,
            self.alone(job.prompt, tokens) if self.alone is not None and tokens else 0,
            trail.queued,
            trail.preempted,
            trail.stalled,
            job.served,
            trail.gap,
            job.preemptions,
            trail.computed,
            trail.cached,
            trail.loaded,
            trail.blocks_out,
            trail.blocks_in,
            job.priority,
            0 if hold is None else job.held,
            0 if hold is None else hold.overruled,
            0 if self.turn is None else self.turn(job.id),
            trail.drafted,
            trail.accepted,
        )
        self.rows += row
        self.texts.append((job.client, job.program, "" if self.slo_class is None else self.slo_class(job.id)))
        if self.slo is not None:
            self.slos.append(self.slo(job.id))  # now: whoever is asked may forget a job that has ended
        if self.watch is not None:
            columns = columns_of(row, self.texts[-1:], self.slos[-1:], self.finishes, self.block_bytes)
            self.watch(job, {name: values.tolist()[0] for name, values in columns.items()})
        if len(self.texts) >= self.flush:
            self._flush()

    def _flush(self) -> None:
        if self.texts:
            self.parts.append(columns_of(self.rows, self.texts, self.slos, self.finishes, self.block_bytes))
            self.rows = bytearray()
            self.texts = []
            self.slos = []
            if self.keep is not None:
                while sum([len(part["id"]) for part in self.parts[1:]]) >= self.keep:
                    del self.parts[0]

    def columns(self) -> Columns:
        """The records so far, by id; arrays of equal length."""
        self._flush()
        if not self.parts:
            return empty()
        if len(self.parts) > 1:
            # Column by column, so that a million jobs are never held twice.
            self.parts = [{name: np.concatenate([part.pop(name) for part in self.parts]) for name in COLUMNS}]
        columns = self.parts[0]
        if np.any(columns["id"][1:] < columns["id"][:-1]):
            order = np.argsort(columns["id"], kind="stable")
            for name in COLUMNS:
                columns[name] = columns[name][order]
        return dict(columns)
