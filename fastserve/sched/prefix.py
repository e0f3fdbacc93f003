"""PrefixScheduler: the Scheduler where prefixes are cached. What it adds costs nothing where they are not."""

from __future__ import annotations

from fastserve.sched.draft import Draft
from fastserve.sched.host_tier import HostTier
from fastserve.sched.job import NEVER, NOWHERE, Copy, Job
from fastserve.sched.plan import NOTHING, UNSHARED, Moves, Outcome, Plan, Shares
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.sharing import SharedLedger


class PrefixScheduler(Scheduler):
    """Its ledger is a SharedLedger, and its plans say what is found and what goes."""

    def cancel(self, job: Job, now: int) -> None:
        super().cancel(job, now)
        assert self.sharing is not None
        self.sharing.settle(now)

    def forget_idle(self, now: int) -> bool:
        """Units that nobody holds are forgotten; a body hears of it by the next plan. Returns whether none is left:
        those that live jobs hold stay, and others may find them.
        """
        sharing = self.sharing
        assert sharing is not None
        self.meter.now = self.policy.now = now
        self.guarded = 0
        return sharing.forget_idle()

    def plan(self, now: int) -> Plan | None:
        sharing = self.sharing
        assert sharing is not None
        draft = sharing.draft
        draft.begin()
        pins = sharing.tree.pins
        if pins.of:
            pins.at = now
        self.found = draft.found
        plan = super().plan(now)
        if plan is not None:
            tier = sharing.tier
            if tier is not None:
                self._units(plan, draft, tier)
            if plan.joined or plan.left or plan.moves is not None or sharing.moved:
                plan.shares = self._shares(plan, sharing)
            else:  # all has its room already
                lost = sharing.tree.lost
                plan.shares = Shares(NOTHING, lost) if lost or (tier is not None and tier.forgotten) else UNSHARED
            if tier is not None and tier.forgotten:
                plan.shares.forget = tier.forgotten
            if plan.iterations > 1:
                if plan.prefill:
                    self._bound(plan, draft)
                if pins.of and plan.iterations > 1:
                    plan.until = pins.bound(now, plan.until)
        return plan

    def commit(self, plan: Plan, outcome: Outcome, now: int) -> list[Job]:
        shares = plan.shares
        if plan.joined and shares is not None:
            for job in plan.joined:
                if job.place is NOWHERE:
                    self.begun.append((plan.now, shares.found.get(job, 0), job.prompt + job.tokens_base))
        ended = super().commit(plan, outcome, now)
        assert self.sharing is not None
        self.sharing.settle(now)
        return ended

    def _shares(self, plan: Plan, ledger: SharedLedger) -> Shares:
        """What is there of who joins or is fetched ahead; and which units go: those that have gone already as the jobs
        that ran took the room, and those that must for this step.
        """
        moves = plan.moves
        draft = ledger.draft
        free = self.chooser.room - ledger.cold
        if plan.joined or plan.left:
            free -= self.chooser.parked
        coming = list(plan.joined)
        gone: list[Job] = []
        if moves is not None:
            coming += [copy.job for copy in moves.prefetch]
            gone += moves.drop
            gone += [copy.job for copy in moves.clear if not copy.out and not copy.orphan]
            gone += [copy.job for copy in moves.clear if copy.out]
            free += sum([copy.blocks for copy in moves.clear if copy.orphan])
        found = {job: draft.found[job] for job in coming if job in draft.found}
        return Shares(found, [*ledger.tree.lost, *draft.evicted(gone, free)])

    def _units(self, plan: Plan, draft: Draft, tier: HostTier) -> None:
        """Copies of units: of what jobs have computed, and of what who joins finds on the host."""
        load = [job for job in plan.joined if job in draft.loads]
        if not (load or tier.stores):
            return
        if plan.moves is None:
            plan.moves = Moves()
            plan.iterations = 1  # as any plan that moves anything
            plan.service = plan.until = NEVER
        plan.moves.store = tier.stores
        for job in load:
            here = draft.units[job]
            there = draft.loads[job]
            plan.moves.load.append(Copy(job, (there - here) * tier.size, False, (job.ids, here, there)))

    def _bound(self, plan: Plan, draft: Draft) -> None:
        """A lone prefill that is to go on holds for no longer than it lasts, and not at all if it gives room."""
        job, tokens = plan.prefill[0]
        most = (job.prompt + job.tokens_base - plan.first(job) - 1) // tokens
        if most <= 1 or draft.unsteady(job):
            plan.iterations = 1
            plan.service = plan.until = NEVER
        elif most < plan.iterations:
            plan.iterations = most
