"""The cluster in its simplest form: every replica makes one iteration at a time, every job is looked at for every view,
and nothing is kept but a list of what each replica was like after each event.

It drives the parts of a Cluster that has been built and not run, and knows nothing of running ahead, cutting short,
books or moments.
"""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from typing import Any

from fastserve.metrics.finish import COMPLETED
from fastserve.routers import Router, chosen
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import NEVER, NOWHERE, Job
from sim.cluster.cluster import Cluster
from sim.cluster.faults import BACK, DRAIN, FAIL, Fault, afresh
from sim.cluster.replica import Replica

NAMES = [field.name for field in fields(ReplicaView)]


def seen(view: ReplicaView) -> tuple[Any, ...]:
    return astuple(view)


class Spec:
    """run() runs what the cluster would."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.router: Router = cluster.router
        self.arrivals = cluster.inbox
        self.replicas: list[Replica] = list(cluster.replicas)
        self.up = {replica.number: "" for replica in self.replicas}
        self.plans: dict[Replica, Any] = {}  # under way: (plan, outcome, end)
        self.wakes: dict[Replica, tuple[int, int]] = {}  # idle: (when to look again, when the Scheduler wants to)
        self.history: dict[int, list[tuple[int, ReplicaView]]] = {}
        self.sent: dict[Job, tuple[int, int]] = {}  # -> replica, tokens
        self.tried: dict[int, set[Replica]] = {}
        self.programs: dict[str, set[int]] = {}
        self.resent: dict[int, int] = {}
        self.answers: list[int] = []
        self.returning: set[int] = set()
        self.now = 0
        for replica in self.replicas:
            self.start(replica, 0)

    def start(self, replica: Replica, now: int) -> None:
        replica.scheduler.macro = False
        replica.box.gone = lambda job, at: self.gone(replica, job, at)
        replica.recorder.began(replica.observers.run, now)
        self.wakes[replica] = (NEVER, NEVER)
        self.history[replica.number] = [(now, self.look(replica))]

    # -- what a replica is like ------------------------------------------------------------------------------------

    def look(self, replica: Replica) -> ReplicaView:
        scheduler, ledger = replica.scheduler, replica.scheduler.ledger
        plan = self.plans[replica][0] if replica in self.plans else None
        boxed = [entry[3] for entry in replica.box.box]
        joining = list(plan.joined) if plan is not None else []
        running = len(scheduler.running) + len(joining) - (len(plan.left) if plan is not None else 0)
        queued = sum(0 if job.decoding else job.prompt + job.generated - job.prefilled for job in scheduler.live)
        queued -= sum(plan.found.get(job, 0) for job in joining if job.place is NOWHERE) if plan is not None else 0
        expected = sum(max(0, (job.guess or 0) - job.generated) for job in scheduler.live)
        free, cached, pool = None, 0, None
        shared = scheduler.sharing
        if shared is not None:
            cached = shared.tree.idle_units
        if ledger.blocks < NEVER:
            left = max(0, ledger.blocks - ledger.used - ledger.cold)
            if shared is not None:
                cached = min(cached, left // shared.size)
                free = (left - cached * shared.size) * ledger.block
            else:
                free = left * ledger.block
            pool = ledger.blocks * ledger.block
        return ReplicaView(
            replica=replica.number, name=self.cluster.names[replica.number].name,
            weight=self.cluster.names[replica.number].weight, waiting=len(scheduler.live) - running + len(boxed),
            running=running, slots=scheduler.slots, queued_tokens=queued + sum(job.prompt for job in boxed),
            expected_tokens=expected + sum(job.guess or 0 for job in boxed), free_tokens=free, pool_tokens=pool,
            cached_tokens=0 if shared is None else cached * shared.unit,
        )  # fmt: skip

    def view(self, replica: Replica, now: int) -> ReplicaView:
        delay = self.cluster.view_delay
        if delay == 0:
            found, age = self.look(replica), 0
        else:
            history = self.history[replica.number]
            at = max(now - delay, history[0][0])
            known = [entry for entry in history if entry[0] <= now - delay] or history[:1]
            found, age = known[-1][1], now - at
        mine = [tokens for number, tokens in self.sent.values() if number == replica.number]
        return replace(found, outstanding=len(mine), outstanding_tokens=sum(mine), age=age)

    # -- time ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.router.begin(self.cluster.facts)
        faults = sorted(self.cluster.faults)
        while True:
            ends = [self.due(replica) for replica in self.replicas]
            now = min(*ends, self.arrivals.at)
            if now == NEVER:
                break
            if faults:
                now = min(now, faults[0].at)
            ready: list[Replica] = []
            changed = True
            while changed:
                changed = False
                for replica in self.replicas:
                    if replica not in ready and self.up[replica.number] != FAIL and self.due(replica) <= now:
                        changed = True
                        ready.append(replica)
                        self.boundary(replica, now)
                idle = self.returning - {number for number, _ in self.sent.values()}
                due = [Fault(now, BACK, number) for number in sorted(idle)]
                self.returning -= idle
                while faults and faults[0].at <= now:
                    due.append(faults.pop(0))
                for fault in due:
                    changed = True
                    self.befalls(fault, now, ready)
                if self.arrivals.at <= now:
                    changed = True
                    for job in self.arrivals.arrived(now):
                        self.route(job, now)
                    continue
                for replica in ready:
                    while replica.inbox.at <= now:
                        changed = True
                        replica.drain(now)
            for replica in ready:
                self.begin(replica, now)
            for replica in self.replicas:
                if self.up[replica.number] != FAIL:
                    self.history[replica.number].append((now, self.look(replica)))
        for replica in self.replicas:
            if self.up[replica.number] != FAIL:
                replica.recorder.ended(self.now)

    def due(self, replica: Replica) -> int:
        if self.up[replica.number] == FAIL:
            return NEVER
        if replica in self.plans:
            return int(self.plans[replica][2])
        if replica in self.wakes:
            return min(self.wakes[replica][0], replica.inbox.at)
        return NEVER

    def boundary(self, replica: Replica, now: int) -> None:
        self.now = now
        if replica not in self.plans:
            _, opens = self.wakes.pop(replica)
            if opens <= now:
                replica.tick(now)
            return
        plan, outcome, _ = self.plans.pop(replica)
        finished = replica.scheduler.commit(plan, outcome, now)
        replica.recorder.committed(plan, outcome, finished, now)
        for job in finished:
            replica.box.left(job, now)

    def begin(self, replica: Replica, now: int) -> None:
        plan = replica.scheduler.plan(now)
        if plan is None:
            opens = replica.scheduler.opens_at()
            self.wakes[replica] = (max(now, opens) if opens < NEVER else NEVER, opens)
            return
        assert plan.iterations == 1
        outcome = replica.machine.run(plan)
        self.plans[replica] = plan, outcome, now + outcome.stall + outcome.service

    # -- who goes where --------------------------------------------------------------------------------------------

    def route(self, job: Job, now: int) -> None:
        tried = self.tried.get(job.id, set())
        able = [other for other in self.replicas if self.up[other.number] == "" and other not in tried]
        if not able:
            self.cluster.refused.rejected(job, now, "none")
            self.over(job, now)
            return
        views = [self.view(other, now) for other in able]
        mean = sum(self.answers) // len(self.answers) if self.answers else 0
        if "guess" in self.router.needs and job.guess is None:
            job.guess = mean
            views = [self.view(other, now) for other in able]
        replica = able[chosen(self.router, job, views)]
        self.sent[job] = replica.number, job.prompt + (mean if job.guess is None else job.guess)
        if job.program and self.cluster.fed is not None:
            self.programs.setdefault(job.program, set()).add(replica.number)
        self.router.sent(job, replica.number, now)
        replica.box.box.append((now + self.cluster.hop, job.arrival, job.id, job))
        replica.box.box.sort()
        replica.box.at = min(replica.box.at, now + self.cluster.hop)

    def gone(self, replica: Replica, job: Job, now: int) -> None:
        del self.sent[job]
        if job.finish in COMPLETED:
            self.answers.append(job.generated)
        self.router.ended(job, replica.number, now, job.generated)
        self.over(job, now)

    def over(self, job: Job, now: int) -> None:
        fed = self.cluster.fed
        if fed is None:
            return
        fed.left(job, now)
        for program in fed.ended():
            for number in sorted(self.programs.pop(program, ())):
                self.replicas[number].box.end(program)

    def befalls(self, fault: Fault, now: int, ready: list[Replica]) -> None:
        number = fault.replica
        replica = self.replicas[number]
        if fault.what == DRAIN:
            self.up[number] = DRAIN
        elif fault.what == FAIL:
            self.now = now
            self.up[number] = FAIL
            self.returning.discard(number)
            jobs = [*replica.scheduler.live, *[entry[3] for entry in replica.box.box]]
            jobs.sort(key=lambda job: (job.arrival, job.id))
            again, broken = [], []
            for job in jobs:
                if replica.recorder.first_token(job) >= 0 and not self.cluster.resend_all:
                    replica.scheduler.cancel(job, now)
                    job.finish = "error"
                    replica.recorder.cancelled(job, now)
                    broken.append(job)
                else:
                    again.append(job)
                del self.sent[job]
                self.router.failed(job, number, now)
            if replica in ready:
                ready.remove(replica)
            self.plans.pop(replica, None)
            self.wakes.pop(replica, None)
            self.router.lost(number, now)
            for job in broken:
                self.over(job, now)
            for job in again:
                self.resent[job.id] = self.resent.get(job.id, 0) + 1
                self.tried.setdefault(job.id, set()).add(replica)
                self.route(afresh(job), now)
        elif any(where == number for where, _ in self.sent.values()):
            self.returning.add(number)
        else:
            if self.up[number] == DRAIN:
                self.router.lost(number, now)
            if replica in ready:
                ready.remove(replica)
            self.plans.pop(replica, None)
            self.wakes.pop(replica, None)
            self.cluster.past.append(replica)
            for where in self.programs.values():
                where.discard(number)
            self.up[number] = ""
            self.replicas[number] = fresh = self.cluster.make(self.cluster, number)
            self.start(fresh, now)
            name = self.cluster.names[number]
            self.router.came(number, name.name, name.weight, now)
