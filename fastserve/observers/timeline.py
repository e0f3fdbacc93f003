"""Timeline: a run as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open.

Tracks of the batch: one per slot, a slice per visit ("job 17") with its prefill and its decoding inside, an instant
where somebody was preempted or a step failed. Tracks of the link: the copies out and in, with their starts and ends.
Counters: jobs waiting and running, KV blocks at each plan boundary, and jobs per queue level where the policy's
explain() begins with one, as in "Q3, 4 ms left". Times are microseconds of the run.

The file is an array with an event a line, in the order in which they became known: a slice is there once it has ended.
Viewers need no closing bracket, so a run that was killed can be looked at up to its end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastserve.observers.lines import Lines, Out
from fastserve.observers.reason import why_left
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.observer import Observer, Run, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer

MANY = 200_000  # events, above which a viewer becomes slow
BATCH, LINK = 1, 2  # process numbers in the viewer
LOOKS = 64  # explanations asked for per plan, on average


class Visit:
    """A job's stay in a slot. start, decoding: ns; decoding is -1 until its prefill is complete."""

    __slots__ = ("decoding", "generated", "said", "slot", "start")

    def __init__(self, slot: int, start: int, decoding: int, generated: int, said: str) -> None:
        self.slot = slot
        self.start = start
        self.decoding = decoding
        self.generated = generated
        self.said = said


class Timeline(Observer):
    """out: a path, to be written as the run goes on and closed at its end, or an open text stream.

    most: events at which it ends before the run does, all open slices closed; `cut` then says so. None: no bound.
    Raises OutputError for a path that cannot be written.
    """

    def __init__(self, out: Out, most: int | None = None) -> None:
        self.most = most
        self.count = 0  # events so far
        self.cut = False
        self.ended_at = NEVER  # ns
        self._lines = Lines(out)
        self._lines.write("[\n")
        self._first = True
        self._visits: dict[Job, Visit] = {}
        self._levels: dict[int, int] | None = {}  # jobs by level at the last look; None: the policy has none
        self._credit = 0  # explanations that may be asked for
        self._shown: dict[str, dict[str, int]] = {}  # counters as they stand

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.scheduler = run.scheduler
        self._name("process", BATCH, 0, "batch")
        self._name("process", LINK, 0, "link")
        for slot in range(run.seats.slots):
            self._name("thread", BATCH, slot, f"slot {slot}")
        self._name("thread", LINK, 0, "out, device to host")
        self._name("thread", LINK, 1, "in, host to device")
        for job, slot in run.seats.of.items():
            word = said(self.scheduler.policy, job)
            self._visits[job] = Visit(slot, now, now if job.rolling else -1, job.generated, word)

    def rejected(self, job: Job, now: int, why: str) -> None:
        if self.ended_at == NEVER:
            self._instant(now, f"job {job.id} refused", 0, {"reason": why}, scope="p")

    def cancelled(self, job: Job, now: int) -> None:
        if job in self._visits:
            self._leave(job, now, job.finish)

    def planned(self, plan: Plan, now: int) -> None:
        if self.ended_at < NEVER:
            return
        now = plan.now
        if plan.left:
            reason = why_left(plan, self.scheduler)
            for job in plan.left:
                slot = self._visits[job].slot
                word = said(self.scheduler.policy, job)
                self._leave(job, now, "preempted")
                self._instant(now, "preempted", slot, {"job": job.id, "reason": reason, "policy": word})
        for job in plan.joined:
            whole = job.place is not NOWHERE
            word = said(self.scheduler.policy, job)
            self._visits[job] = Visit(self.run.seats.of[job], now, now if whole else -1, job.generated, word)
        self._count_jobs(plan)
        self._look(now)

    def amended(self, plan: Plan, now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job in self.run.seats.without(plan):
            if not job.running:  # it was to join, and has not
                del self._visits[job]
            else:
                slot = self._visits[job].slot
                word = said(self.scheduler.policy, job)
                self._leave(job, plan.now, "its KV was lost")
                self._instant(plan.now, "KV lost", slot, {"job": job.id, "policy": word})
        self._count_jobs(plan)

    def copied(self, transfer: Transfer, now: int) -> None:
        if self.ended_at < NEVER:
            return
        copy = transfer.copy
        self._slice(
            LINK, 0 if copy.out else 1, f"job {copy.job.id}", transfer.start, transfer.end, {"blocks": copy.blocks}
        )

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job, _ in plan.prefill:
            if (job.rolling or job.finish) and job in self._visits:
                self._visits[job].decoding = now
        for job in finished:
            if job in self._visits:
                self._leave(job, now, job.finish)
        ledger = self.scheduler.ledger
        self._counter(now, "KV blocks", {"used": ledger.used, "parked": ledger.cold, "on the host": ledger.hosted})
        if self.most is not None and self.count + 3 * len(self._visits) >= self.most:
            self.cut = True
            self.ended(now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        if self.ended_at < NEVER:
            return
        self._instant(now, "the step failed, and all KV is forgotten", 0, {}, scope="p")
        for job in list(self._visits):
            self._leave(job, now, "the step failed")

    def ended(self, now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job in list(self._visits):
            self._leave(job, now, "still running")
        self.ended_at = now
        self._lines.write("\n]\n")
        self._lines.close()

    # -- what it makes of it ---------------------------------------------------------------------------------------

    def _leave(self, job: Job, now: int, end: str) -> None:
        visit = self._visits.pop(job)
        facts = {
            "policy": visit.said,
            "prompt": job.prompt,
            "generated": job.generated,
            "tokens": job.generated - visit.generated,
            "end": end,
        }
        self._slice(BATCH, visit.slot, f"job {job.id}", visit.start, now, facts)
        turn = visit.decoding if visit.decoding >= 0 else now
        if turn > visit.start:
            self._slice(BATCH, visit.slot, "prefill", visit.start, turn, {"job": job.id})
        if now > turn:
            self._slice(BATCH, visit.slot, "decode", turn, now, {"job": job.id})

    def _count_jobs(self, plan: Plan) -> None:
        running = len(plan.running) - len(plan.left) + len(plan.joined)
        self._counter(plan.now, "jobs", {"waiting": len(self.scheduler.live) - running, "running": running})

    def _look(self, now: int) -> None:
        """Asks for every live job's level, as often as that costs LOOKS explanations a plan on average."""
        if self._levels is None:
            return
        live = self.scheduler.live
        self._credit = min(self._credit + LOOKS, LOOKS + len(live))
        if self._credit < len(live):
            return
        self._credit -= len(live)
        counts = dict.fromkeys(self._levels, 0)
        for job in live:
            at = level(said(self.scheduler.policy, job))
            if at is not None:
                counts[at] = counts.get(at, 0) + 1
        if live and not counts:
            self._levels = None
            return
        self._levels = counts
        self._counter(now, "queue levels", {f"Q{at}": counts[at] for at in sorted(counts)})

    def _name(self, kind: str, process: int, track: int, name: str) -> None:
        self._event({"name": f"{kind}_name", "ph": "M", "pid": process, "tid": track, "ts": 0, "args": {"name": name}})

    def _slice(self, process: int, track: int, name: str, start: int, end: int, facts: dict[str, Any]) -> None:
        self._event({
            "name": name, "ph": "X", "pid": process, "tid": track, "ts": start / 1000, "dur": (end - start) / 1000,
            "args": facts,
        })  # fmt: skip

    def _instant(self, now: int, name: str, track: int, facts: dict[str, Any], scope: str = "t") -> None:
        self._event({"name": name, "ph": "i", "s": scope, "pid": BATCH, "tid": track, "ts": now / 1000, "args": facts})

    def _counter(self, now: int, name: str, values: dict[str, int]) -> None:
        if self._shown.get(name) != values:
            self._shown[name] = values
            self._event({"name": name, "ph": "C", "pid": BATCH, "tid": 0, "ts": now / 1000, "args": values})

    def _event(self, event: dict[str, Any]) -> None:
        self.count += event["ph"] != "M"
        self._lines.write(("" if self._first else ",\n") + json.dumps(event))
        self._first = False
