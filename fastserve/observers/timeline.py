"""Timeline: a run as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open.

A group of tracks a run, named after its policy; several runs may share a file (TraceFile), each from its own 0 s on:

* slots of the batch: a slice per visit ("job 17") with its prefill and its decoding inside, an instant where somebody
  was preempted or a step failed;
* who waits: a slice per wait in the first lane that is free, named by why ("job 17, new", "preempted", "held back").
  As many lanes are taken as jobs wait, so their lower edge is the queue's length, up to LANES; whoever comes beyond
  them is in the counter alone;
* the link: the copies out and in, with their starts and ends;
* counters: jobs waiting and running, KV blocks at each plan boundary, and jobs per queue level where the policy's
  explain() begins with one, as in "Q3, 4 ms left".

Arrows (`bind_id`) join a job's waits, visits and copies, in the order in which they began. Times are microseconds of
the run. An event is written when it is known: a slice once it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastserve.observers.lines import Out
from fastserve.observers.reason import why_left
from fastserve.observers.trace_file import TraceFile
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.observer import Observer, Run, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer

MANY = 200_000  # events, above which a viewer becomes slow
LANES = 32  # waits that are drawn at once: about as many lines as a screen has
LOOKS = 64  # explanations asked for per plan, on average
NEW, PREEMPTED, HELD = "new", "preempted", "held back"


class Stay:
    """A job's time in one place, a slot or a lane. since, decoding: ns; decoding is -1 until its prefill is complete.
    first: nothing of its job was drawn before.
    """

    __slots__ = ("decoding", "first", "generated", "held", "held_back", "said", "since", "track", "why")

    def __init__(self, track: int, since: int, job: Job, said: str, first: bool) -> None:
        self.track = track
        self.since = since
        self.said = said
        self.first = first
        self.generated = job.generated
        self.held = job.held
        self.held_back = job.held_back
        self.decoding = -1
        self.why = PREEMPTED if job.preemptions or job.generated else NEW  # of a wait


class Arrows:
    """What joins a job's slices. drawn: how many began."""

    __slots__ = ("drawn", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.drawn = 0


class Timeline(Observer):
    """out: a path, to be written as the run goes on and closed at its end, or an open text stream; or a TraceFile that
    others write too, which whoever made it closes. name: of the group; None: the policy's.

    most: events at which it ends before the run does, all open slices closed; `cut` then says so. None: no bound.
    Raises OutputError for a path that cannot be written.
    """

    def __init__(self, out: Out | TraceFile, most: int | None = None, name: str | None = None) -> None:
        self.most = most
        self.name = name
        self.count = 0  # events so far
        self.cut = False
        self.ended_at = NEVER  # ns
        self._own = not isinstance(out, TraceFile)
        self._file = out if isinstance(out, TraceFile) else TraceFile(out)
        self._visits: dict[Job, Stay] = {}
        self._waits: dict[Job, Stay] = {}
        self._lanes: dict[int, int] = {}  # track -> since when it is free, ns; NEVER: it is not
        self._arrows: dict[Job, Arrows] = {}
        self._planned = 0  # ns: for when the last plan was made
        self._levels: dict[int, int] | None = {}  # jobs by level at the last look; None: the policy has none
        self._credit = 0  # explanations that may be asked for
        self._shown: dict[str, dict[str, int]] = {}  # counters as they stand

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.scheduler = run.scheduler
        if self.name is None:
            self.name = str(run.about.get("policy") or type(run.scheduler.policy).__name__)
        self._group = self._file.group(self.name)
        self._slots = [self._track(f"slot {slot}") for slot in range(run.seats.slots)]
        self._links = [
            self._track("link in, host to device", len(self._slots) + LANES + 1),
            self._track("link out, device to host", len(self._slots) + LANES),
        ]
        for job in run.scheduler.live:
            if job in run.seats.of:
                self._visit(job, now, job.rolling)
            else:
                self._wait(job, now)

    def submitted(self, job: Job, now: int) -> None:
        """One that was sent elsewhere before has an arrival of long ago, and waits here since now."""
        self._wait(job, job.arrival if self._planned <= job.arrival <= now else now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        if self.ended_at == NEVER:
            self._instant(now, f"job {job.id} refused", self._slots[0], {"reason": why}, scope="p")

    def cancelled(self, job: Job, now: int) -> None:
        self._over(job, now)

    def planned(self, plan: Plan, now: int) -> None:
        if self.ended_at < NEVER:
            return
        now = self._planned = plan.now
        if plan.left:
            reason = why_left(plan, self.scheduler)
            for job in plan.left:
                track = self._visits[job].track
                word = said(self.scheduler.policy, job)
                self._leave(job, now, "preempted")
                self._instant(now, "preempted", track, {"job": job.id, "reason": reason, "policy": word})
                self._wait(job, now, PREEMPTED)
        for job in plan.joined:
            self._called(job, now, "joined")
            self._visit(job, now, job.place is not NOWHERE)
        self._count_jobs(plan)
        self._look(now)

    def amended(self, plan: Plan, now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job in self.run.seats.without(plan):
            if not job.running:  # it was to join, and has not
                del self._visits[job]
                self._arrows[job].drawn -= 1
            else:
                track = self._visits[job].track
                word = said(self.scheduler.policy, job)
                self._leave(job, plan.now, "its KV was lost")
                self._instant(plan.now, "KV lost", track, {"job": job.id, "policy": word})
            self._wait(job, plan.now)
        self._count_jobs(plan)

    def copied(self, transfer: Transfer, now: int) -> None:
        if self.ended_at < NEVER:
            return
        copy = transfer.copy
        arrows = self._arrows.get(copy.job)
        facts = {"blocks": copy.blocks}
        track = self._links[copy.out]
        flow = {} if arrows is None else _flow(arrows, False)
        self._slice(track, f"job {copy.job.id}", "copy", transfer.start, transfer.end, facts, flow)
        if arrows is not None:
            arrows.drawn += 1

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job, _ in plan.prefill:
            if (job.rolling or job.finish) and job in self._visits:
                self._visits[job].decoding = now
        for job in finished:
            self._over(job, now)
        ledger = self.scheduler.ledger
        self._counter(now, "KV blocks", {"used": ledger.used, "parked": ledger.cold, "on the host": ledger.hosted})
        if self.most is not None and self.count + 3 * len(self._visits) + len(self._waits) >= self.most:
            self.cut = True
            self.ended(now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        if self.ended_at < NEVER:
            return
        self._instant(now, "the step failed, and all KV is forgotten", self._slots[0], {}, scope="p")
        for job in list(self._visits):
            self._leave(job, now, "the step failed")
            self._wait(job, now)

    def ended(self, now: int) -> None:
        if self.ended_at < NEVER:
            return
        for job in list(self._visits):
            self._leave(job, now, "still running")
        for job in list(self._waits):
            self._called(job, now, "still waiting")
        self.ended_at = now
        if self._own:
            self._file.close()

    # -- what it makes of it ---------------------------------------------------------------------------------------

    def _visit(self, job: Job, now: int, whole: bool) -> None:
        """whole: all of its KV is there."""
        slot = self._slots[self.run.seats.of[job]]
        visit = self._visits[job] = Stay(slot, now, job, said(self.scheduler.policy, job), self._begins(job))
        if whole:
            visit.decoding = now

    def _wait(self, job: Job, now: int, why: str = "") -> None:
        """It waits from now on (ns), in a lane if one is free."""
        if self.ended_at < NEVER:
            return
        lane = next((lane for lane, free in self._lanes.items() if free <= now), 0)
        if not lane:
            n = len(self._lanes)
            if n == LANES:
                return
            lane = self._track(f"waiting {n}", len(self._slots) + n)
        self._lanes[lane] = NEVER
        wait = self._waits[job] = Stay(lane, now, job, said(self.scheduler.policy, job), self._begins(job))
        wait.why = why or wait.why

    def _called(self, job: Job, now: int, end: str) -> None:
        """Its wait is over, as far as it was drawn."""
        wait = self._waits.pop(job, None)
        if wait is None:
            return
        self._lanes[wait.track] = now
        if now == wait.since:
            self._arrows[job].drawn -= 1
            return
        held = wait.held_back or job.held_back or job.held > wait.held
        facts: dict[str, Any] = {"policy": wait.said, "prompt": job.prompt, "generated": job.generated, "end": end}
        name = f"job {job.id}, {HELD if held else wait.why}"
        self._slice(wait.track, name, "wait", wait.since, now, facts, self._joins(job, wait))

    def _over(self, job: Job, now: int) -> None:
        """It has ended, as job.finish says."""
        if self.ended_at < NEVER:
            return
        self._called(job, now, job.finish)
        if job in self._visits:
            self._leave(job, now, job.finish)
        self._arrows.pop(job, None)

    def _leave(self, job: Job, now: int, end: str) -> None:
        visit = self._visits.pop(job)
        facts = {
            "policy": visit.said,
            "prompt": job.prompt,
            "generated": job.generated,
            "tokens": job.generated - visit.generated,
            "end": end,
        }
        self._slice(visit.track, f"job {job.id}", "visit", visit.since, now, facts, self._joins(job, visit))
        turn = visit.decoding if visit.decoding >= 0 else now
        if turn > visit.since:
            self._slice(visit.track, "prefill", "step", visit.since, turn, {"job": job.id})
        if now > turn:
            self._slice(visit.track, "decode", "step", turn, now, {"job": job.id})

    def _begins(self, job: Job) -> bool:
        """Something of it is drawn from now on; returns whether it is the first of it."""
        arrows = self._arrows.get(job)
        if arrows is None:
            arrows = self._arrows[job] = Arrows(self._file.flow())
        arrows.drawn += 1
        return arrows.drawn == 1

    def _joins(self, job: Job, stay: Stay) -> dict[str, Any]:
        """Nothing where it is all that was drawn of an ended job."""
        arrows = self._arrows[job]
        return {} if job.finish and arrows.drawn == 1 else _flow(arrows, stay.first)

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

    def _track(self, name: str, place: int | None = None) -> int:
        return self._file.track(self._group, name, place)

    def _slice(
        self,
        track: int,
        name: str,
        kind: str,
        start: int,
        end: int,
        facts: dict[str, Any],
        flow: dict[str, Any] | None = None,
    ) -> None:
        self._event({
            "name": name, "cat": kind, "ph": "X", "pid": self._group, "tid": track, "ts": start / 1000,
            "dur": (end - start) / 1000, **(flow or {}), "args": facts,
        })  # fmt: skip

    def _instant(self, now: int, name: str, track: int, facts: dict[str, Any], scope: str = "t") -> None:
        self._event({
            "name": name, "cat": "event", "ph": "i", "s": scope, "pid": self._group, "tid": track, "ts": now / 1000,
            "args": facts,
        })  # fmt: skip

    def _counter(self, now: int, name: str, values: dict[str, int]) -> None:
        if self._shown.get(name) != values:
            self._shown[name] = values
            place = {"pid": self._group, "tid": self._slots[0], "ts": now / 1000}
            self._event({"name": name, "cat": "counter", "ph": "C", **place, "args": values})

    def _event(self, event: dict[str, Any]) -> None:
        self.count += 1
        self._file.event(event)


def _flow(arrows: Arrows, first: bool) -> dict[str, Any]:
    """An arrow goes out of each of a job's slices, and into each but the first, bound to the slices themselves. Which
    is the last nobody knows when it is written.
    """
    return {"bind_id": arrows.name, "flow_out": True} | ({} if first else {"flow_in": True})
