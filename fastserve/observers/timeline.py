"""Timeline: a run as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open.

Tracks of the batch: one per slot, a slice per visit ("job 17") with its prefill and its decoding inside, an instant
where somebody was preempted. Tracks of the link: the copies out and in, with their real starts and ends. Counters: jobs
waiting and running, KV blocks at each plan boundary, and jobs per queue level where the policy's explain() begins with
one, as in "Q3, 4 ms left". Times are microseconds of the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically
from fastserve.observers.seats import Seats
from fastserve.sched.job import NOWHERE, Job
from fastserve.sched.observer import Observer, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer
from fastserve.sched.scheduler import Scheduler

MANY = 200_000  # events, above which a viewer becomes slow
MOST = 500_000  # events, at which a timeline ends
BATCH, LINK = 1, 2  # process numbers in the viewer
LOOKS = 64  # explanations asked for per plan, on average


class Visit:
    """A job's stay in a slot. start, decoding: ns; decoding is -1 until its prefill is complete."""

    __slots__ = ("decoding", "generated", "said", "start")

    def __init__(self, start: int, decoding: int, generated: int, said: str) -> None:
        self.start = start
        self.decoding = decoding
        self.generated = generated
        self.said = said


class Timeline(Observer):
    """most: events at which it ends, all open slices closed; `ended_at` (ns) then says when that was."""

    def __init__(self, scheduler: Scheduler, most: int = MOST) -> None:
        self.scheduler = scheduler
        self.most = most
        self.seats = Seats(scheduler)
        self.visits: dict[Job, Visit] = {}
        self.events: list[tuple[int, int, str]] = []  # (ns, less its length in ns, JSON)
        self.now = 0
        self.ended_at: int | None = None
        self.levels: dict[int, int] | None = {}  # jobs by level at the last look; None: the policy has none
        self.credit = 0  # explanations that may be asked for
        self.shown: dict[str, dict[str, int]] = {}  # counters as they stand

    # -- what it is told -------------------------------------------------------------------------------------------

    def refused(self, job: Job, now: int, why: str) -> None:
        if self.ended_at is None:
            self._instant(now, f"job {job.id} refused", 0, {"reason": why}, scope="p")

    def planned(self, plan: Plan) -> None:
        if self.ended_at is not None:
            return
        now = self.now = plan.now
        for job in plan.gone:
            if job in self.visits:
                self._leave(job, now, "cancelled")
        if plan.left:
            reason = self.seats.why(plan)
            for job in plan.left:
                slot = self.seats.of[job]
                word = said(self.scheduler.policy, job)
                self._leave(job, now, "preempted")
                self._instant(now, "preempted", slot, {"job": job.id, "reason": reason, "policy": word})
        for job in plan.joined:
            self.seats.take(job)
            whole = job.place is not NOWHERE
            word = said(self.scheduler.policy, job)
            self.visits[job] = Visit(now, now if whole else -1, job.generated, word)
        running = len(plan.running) - len(plan.left) + len(plan.joined)
        self._counter(now, "jobs", {"waiting": len(self.scheduler.live) - running, "running": running})
        self._look(now)

    def sent(self, transfer: Transfer) -> None:
        if self.ended_at is not None:
            return
        copy = transfer.copy
        self._slice(
            LINK, 0 if copy.out else 1, f"job {copy.job.id}", transfer.start, transfer.end, {"blocks": copy.blocks}
        )

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        if self.ended_at is not None:
            return
        self.now = now
        for job, _ in plan.prefill:
            if job.rolling or job.finish:
                self.visits[job].decoding = now
        for job in finished:
            if job in self.visits:
                self._leave(job, now, job.finish)
        ledger = self.scheduler.ledger
        self._counter(now, "KV blocks", {"used": ledger.used, "parked": ledger.cold, "on the host": ledger.hosted})
        if len(self.events) + 3 * len(self.visits) >= self.most:
            self.close(now)
            self.ended_at = now

    # -- what it makes of it ---------------------------------------------------------------------------------------

    def close(self, now: int) -> None:
        """Ends the slices that are still open."""
        for job in list(self.visits):
            self._leave(job, now, "still running")

    def write(self, path: Path) -> None:
        """Raises OutputError where the file cannot be written; it appears whole or not at all."""
        self.close(self.now)
        names = [_name("process", BATCH, 0, "batch"), _name("process", LINK, 0, "link")]
        names += [_name("thread", BATCH, slot, f"slot {slot}") for slot in range(self.scheduler.slots)]
        names += [_name("thread", LINK, 0, "out, device to host"), _name("thread", LINK, 1, "in, host to device")]
        self.events.sort(key=_order)
        with atomically(path) as draft, draft.open("w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
            file.write(",\n".join(names))
            for _, _, text in self.events:
                file.write(",\n")
                file.write(text)
            file.write("\n]}\n")

    def _leave(self, job: Job, now: int, end: str) -> None:
        visit = self.visits.pop(job)
        slot = self.seats.give(job)
        facts = {
            "policy": visit.said,
            "prompt": job.prompt,
            "generated": job.generated,
            "tokens": job.generated - visit.generated,
            "end": end,
        }
        self._slice(BATCH, slot, f"job {job.id}", visit.start, now, facts)
        turn = visit.decoding if visit.decoding >= 0 else now
        if turn > visit.start:
            self._slice(BATCH, slot, "prefill", visit.start, turn, {"job": job.id})
        if now > turn:
            self._slice(BATCH, slot, "decode", turn, now, {"job": job.id})

    def _look(self, now: int) -> None:
        """Asks for every live job's level, as often as that costs LOOKS explanations a plan on average."""
        if self.levels is None:
            return
        live = self.scheduler.live
        self.credit = min(self.credit + LOOKS, LOOKS + len(live))
        if self.credit < len(live):
            return
        self.credit -= len(live)
        counts = dict.fromkeys(self.levels, 0)
        for job in live:
            at = level(said(self.scheduler.policy, job))
            if at is not None:
                counts[at] = counts.get(at, 0) + 1
        if live and not counts:
            self.levels = None
            return
        self.levels = counts
        self._counter(now, "queue levels", {f"Q{at}": counts[at] for at in sorted(counts)})

    def _slice(self, process: int, track: int, name: str, start: int, end: int, facts: dict[str, Any]) -> None:
        event = {
            "name": name, "ph": "X", "pid": process, "tid": track, "ts": start / 1000, "dur": (end - start) / 1000,
            "args": facts,
        }  # fmt: skip
        self.events.append((start, start - end, json.dumps(event)))

    def _instant(self, now: int, name: str, track: int, facts: dict[str, Any], scope: str = "t") -> None:
        event = {"name": name, "ph": "i", "s": scope, "pid": BATCH, "tid": track, "ts": now / 1000, "args": facts}
        self.events.append((now, 0, json.dumps(event)))

    def _counter(self, now: int, name: str, values: dict[str, int]) -> None:
        if self.shown.get(name) != values:
            self.shown[name] = values
            event = {"name": name, "ph": "C", "pid": BATCH, "tid": 0, "ts": now / 1000, "args": values}
            self.events.append((now, 0, json.dumps(event)))


def _name(kind: str, process: int, track: int, name: str) -> str:
    return json.dumps(
        {"name": f"{kind}_name", "ph": "M", "pid": process, "tid": track, "ts": 0, "args": {"name": name}}
    )


def _order(event: tuple[int, int, str]) -> tuple[int, int]:
    """By time; of two slices that start together the longer one first, which holds the other."""
    return event[0], event[1]
