"""SharedLedger: the KV ledger where prefixes are cached, so that jobs share blocks and later jobs find them.

It answers what Ledger answers. A unit that several jobs hold counts once: as used if one of them runs, else as cold.
Idle units are neither, for they count as free. A job that joins from nowhere takes up the units of its prompt that it
finds, and what an iteration computes others find from its end on; where two have computed the same, one copy stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastserve.sched.draft import Draft
from fastserve.sched.host_tier import HostTier
from fastserve.sched.job import DEVICE, LEAVING, Copy, Job
from fastserve.sched.kv import Ledger
from fastserve.sched.path import joined
from fastserve.sched.plan import UNSHARED, Amended, Outcome, Plan
from fastserve.sched.policy import Machine
from fastserve.sched.units import Ids, Run, Tree


class SharedLedger(Ledger):
    """unit: tokens of a unit; ValueError unless that is a whole number of blocks. tier: room on the host for so many
    tokens of units, and the machine's times. The rest: see Ledger.
    """

    __slots__ = ("draft", "moved", "size", "tier", "tree", "unit")

    def __init__(
        self, blocks: int, host: int, block: int, whole: bool, lookahead: int, unit: int,
        tier: tuple[int, Machine] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(blocks, host, block, whole, lookahead)
        if unit % block:
            raise ValueError(
                f"prefix_tokens={unit} is not a whole number of KV blocks of {block} tokens: give a multiple of these"
            )
        self.unit = unit
        self.size = unit // block  # blocks of a unit
        self.tree = Tree(unit)
        self.tier: HostTier | None = None
        if tier is not None and tier[0] >= unit:
            self.tier = HostTier(tier[0] // unit, unit, self.size, tier[1])
        self.draft = Draft(self, self.tree, self.size, self.tier)
        self.moved = (
            False  # the pool, or what jobs occupy, from outside: the next plan looks for idle units that must go
        )

    # -- what if: while a plan is made -----------------------------------------------------------------------------

    def missing(self, job: Job) -> int:
        return self.draft.missing(job)

    def alone(self, job: Job) -> int:
        return self.draft.alone(job)

    def release(self, job: Job) -> int:
        return self.draft.release(job)

    def fetch(self, job: Job, most: int) -> int:
        return self.draft.fetch(job, most)

    # -- what a plan has done --------------------------------------------------------------------------------------

    def follow(self, plan: Plan, iterations: int) -> None:
        """Who joined and what is fetched takes up what the plan found; then units go, once the step's room is clear.

        What the prefills complete others find from here on: nothing of it is asked before the step has run.
        """
        tree = self.tree
        unit = self.unit
        shares = plan.shares
        if self.tier is not None:
            self.tier.told()
        if shares is not None and shares is not UNSHARED:
            going = shares.evict[len(tree.lost) :]
            tree.lost = []
            for job, tokens in shares.found.items():
                self.hold(job, tree.whole(job.ids, tokens), job.running)
                if job.running and not job.rolling:
                    job.prefilled = tokens
            if plan.moves is not None:
                for copy in plan.moves.clear:
                    if copy.out:
                        self.finish(copy)
            if isinstance(shares, Amended):  # others may be idle now than the plan reckoned with
                tree.evict(going)
            else:
                tree.shrink(sum([end - start for _, start, end in going]))
            for job in plan.joined:
                if job.rolling:
                    self._hold_all(job, True)
        for job, tokens in plan.prefill:
            if job.ids:
                whole = min(len(job.ids), (job.prefilled + iterations * tokens) // unit)
                if job.tail is None or job.tail.end < whole:
                    self.hold(job, whole, True)

    def advance(self, steps: int, k: int) -> None:
        """Up to the last iteration; who ends in that takes no more from what is idle."""
        if k > 1:
            super().advance(steps, k - 1)
            self.settle(self.tree.pins.at)
        super().advance(steps + k - 1, 1)

    def computed(self, job: Job) -> None:
        """Its prefill is complete: what it has computed goes to the host, if that keeps units, beside its decodes."""
        if self.tier is not None and job.tail is not None:
            self._store(self.tier.take(job, job.ids, job.shared))

    def end(self, job: Job, outcome: Outcome | None) -> None:
        """A job that ran has departed, and its blocks are off `used`. outcome: what may name its answer's units."""
        answer: Ids = ()
        if outcome is not None and outcome.answers:
            answer = outcome.answers.get(job, ())
        ids = job.ids
        whole = job.shared
        if answer and whole == len(ids):
            ids = joined(ids, answer)
            whole = self.tree.whole(ids, job.prompt + job.generated - 1)
            self.tree.leave_behind(ids, job.shared, job.tail, whole, job.program)
        if self.tier is not None and whole:
            self._store(self.tier.take(job, ids, whole))
        self._let_go(job, True)

    def settle(self, now: int) -> None:
        """Idle units make room for what the jobs occupy. now: ns, for which what is kept is asked."""
        tree = self.tree
        self.moved = False
        if tree.idle_units:
            size = self.size
            over = tree.idle_units * size - max(0, self.blocks - self.used - self.cold)
            if over > 0:
                tree.pins.at = now
                tree.lost += tree.shrink(-(-over // size))

    # -- copies of what is left behind, to the host ----------------------------------------------------------------

    def _store(self, copy: Copy | None) -> None:
        """It is to be copied, and stays on the device until it has been, as parked KV on its way out does."""
        if copy is not None:
            left = copy.job
            self.copies[copy] = None
            self.leaving += copy.blocks
            self.cold += self.held(left)
            self.hold(left, left.prompt // self.unit, False)

    def _stored(self, copy: Copy) -> None:
        del self.copies[copy]
        self.leaving -= copy.blocks
        self.cold -= self.held(copy.job)
        self._let_go(copy.job, False)

    def forget_idle(self) -> bool:
        """All units that nobody holds are forgotten, here and on the host. Returns whether none is left at all."""
        tier = self.tier
        if tier is not None:
            for copy in tier.forget_idle():
                self._stored(copy)
        self.tree.forget_idle()
        return not (self.tree.first or (tier is not None and tier.tree.first))

    # -- who holds what --------------------------------------------------------------------------------------------

    def hold(self, job: Job, upto: int, running: bool) -> None:
        """It holds its units from job.shared to `upto`: found ones, or its own, which from here on others find."""
        ids = job.ids
        at = job.shared
        tail = job.tail
        if upto <= at:
            return
        tree = self.tree
        size = self.size
        if tree.lost:
            tree.keep(ids, upto)
        while at < upto:
            run = tree.cut(ids, at, upto) if ids[at] in tree.first else None
            if run is None:
                if tail is not None and tail.holders == 1 and tail.children == 0 and tail.runners == int(running):
                    tail.ids = ids
                    tail.end = upto
                else:
                    tail = tree.first[ids[at]] = Run(ids, at, upto, tail, 1, int(running))
                break
            n = run.end - at
            if run.holders == 0:
                tree.idle.pop(run, None)
                tree.idle_units -= n
            elif running and run.runners:
                self.used -= n * size
            else:
                self.cold -= n * size
            run.holders += 1
            run.runners += int(running)
            tree.unite(tail, run)
            tail = run
            at = run.end
        job.tail = tail

    def _hold_all(self, job: Job, running: bool) -> None:
        """Its KV is complete on the device: it shares what can be."""
        if job.ids:
            self.hold(job, self.tree.whole(job.ids, job.prompt + job.generated - 1), running)

    def _let_go(self, job: Job, running: bool) -> None:
        """It holds nothing any more. What nobody else holds is idle from now on, the deepest first."""
        tree = self.tree
        used = cold = 0
        run = job.tail
        while run is not None:
            n = run.end - run.start
            run.holders -= 1
            if running:
                run.runners -= 1
            if run.runners:
                if running:
                    used += n
                else:
                    cold += n
            elif run.holders:
                cold += n
            else:
                tree.idle[run] = None
                tree.idle_units += n
                run.owner = job.program
            run = run.parent
        self.used += used * self.size
        self.cold += cold * self.size
        job.tail = None

    def _turn(self, job: Job, by: int) -> None:
        """It runs again (1), or waits from now on (-1), and goes on holding. Before or after its own blocks move."""
        others = 0
        run = job.tail
        while run is not None:
            if by < 0:
                run.runners -= 1
            if run.runners:
                others += run.end - run.start
            if by > 0:
                run.runners += 1
            run = run.parent
        self.used -= by * others * self.size
        self.cold += by * others * self.size

    # -- as Ledger -------------------------------------------------------------------------------------------------

    def join(self, job: Job) -> None:
        if job.tail is not None:
            self._turn(job, 1)
        super().join(job)

    def leave(self, job: Job) -> None:
        super().leave(job)
        if job.tail is not None:
            self._turn(job, -1)

    def drop(self, job: Job) -> None:
        super().drop(job)
        self._let_go(job, False)

    def correct(self, job: Job, delta: int) -> None:
        super().correct(job, delta)
        if job.decoding and (job.place is DEVICE or job.place is LEAVING):
            self._hold_all(job, job.running)

    def start(self, copy: Copy) -> None:
        super().start(copy)
        if not copy.out:
            self.cold += self.held(copy.job) - copy.blocks  # it will hold what is found, too; see hold()

    def finish(self, copy: Copy) -> None:
        known = copy in self.copies and not copy.orphan
        if copy.units is not None and self.tier is not None:
            if known:
                self._stored(copy)
                self.tier.finish(copy)
            return
        super().finish(copy)
        if known:
            job = copy.job
            if copy.out:
                self._let_go(job, False)
            else:
                self.hosted -= self.held(job) - copy.blocks
                self._hold_all(job, False)

    def abort(self, copy: Copy) -> None:
        if not copy.orphan:
            super().abort(copy)
            self.cold -= self.held(copy.job) - copy.blocks
            self._let_go(copy.job, False)

    def forget_all(self, jobs: Iterable[Job]) -> None:
        super().forget_all(jobs)
        self.tree.clear()
        if self.tier is not None:
            self.tier.clear()
        for job in jobs:
            job.tail = None

    def remove(self, job: Job) -> None:
        copy = job.copy
        if copy is not None and not copy.out:
            self.cold -= self.held(job) - copy.blocks
        super().remove(job)
        if self.tier is not None and job.tail is not None:
            self._store(self.tier.take(job, job.ids, job.shared))
        self._let_go(job, False)
