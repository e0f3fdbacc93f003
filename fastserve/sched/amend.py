"""What a body does otherwise: a plan is amended to what has really happened, before the commit books it; tokens are
counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastserve.sched.job import DEVICE, NEVER, NOWHERE, Job
from fastserve.sched.members import Members
from fastserve.sched.plan import NOTHING, UNSHARED, Amended, Moves, Plan

Chunks = Sequence[tuple[Job, int]]


class Amendable(Members):
    """Doors beside plan and commit, for bodies that decide some things by themselves. Unused, they cost nothing."""

    def amend(
        self,
        plan: Plan,
        *,
        prefill: Sequence[tuple[Job, int]] | None = None,
        absent: Sequence[Job] = (),
        lost: Sequence[Job] = (),
        found: Mapping[Job, int] = NOTHING,
    ) -> None:
        """Before the commit of a plan: the body has done other than it asks. It then holds for one iteration.

        prefill: (job, tokens) that were really prefilled, of members that owe a prefill, those who join with this plan
        among them; who is not named got none. None: as planned. absent: who was to join and did not: it stays as it
        is, and is called again. lost: whose KV the body gave up: members and who leaves with this plan, which is a
        preemption, and who waits with KV on the device; all of it is dropped. found: tokens of the prefix that who
        joins from nowhere found in a cache of the body's own, whatever the plan says: its prefill begins behind them.
        Who decodes and got no token is told by Outcome.extra. ValueError, and nothing is changed, for what no body can
        have done.
        """
        amend(plan, self.live, prefill, absent, lost, found)

    def correct(self, job: Job, tokens: int, now: int) -> None:
        """The body has counted again: this live job, wherever it is, has so many output tokens more, or fewer, than the
        commits said. Told after a commit and before the next plan; of a job that decodes and ends, also before the
        commit of a single iteration. Alarms on tokens that fall due ring at the next commit.

        ValueError for a job that has departed, or would have less than none or more than its limit. One that becomes
        too long for the pool waits; see resize_pool().
        """
        if job not in self.live:
            raise ValueError(f"job {job.id} has departed, and its count stands; correct it before its end")
        if not 0 <= job.generated + tokens <= job.limit:
            raise ValueError(
                f"job {job.id} has {job.generated} tokens, and would have {job.generated + tokens}: it has 0 to its "
                f"limit of {job.limit}"
            )
        self.meter.now = self.policy.now = now
        self.ledger.correct(job, tokens)
        if job.rolling:
            self.context += tokens
        elif job.running:  # its newest token is always computed
            job.prefilled = min(job.prefilled, job.prompt + job.tokens_base - 1)
        if self.sharing is not None:
            self.sharing.moved = True
        self.alarms.watch_corrected(job)
        self.ranking.dirty[job] = None
        self.guarded = 0


def amend(
    plan: Plan,
    live: Mapping[Job, None],
    prefill: Chunks | None,
    absent: Sequence[Job],
    lost: Sequence[Job],
    found: Mapping[Job, int],
) -> None:
    """See Scheduler.amend(). Nothing but the plan is changed, and that not before all has been checked."""
    away = dict.fromkeys(absent)
    given_up = dict.fromkeys(lost)
    joins = dict.fromkeys(plan.joined)
    leaves = dict.fromkeys(plan.left)
    for job in away:
        if job not in joins:
            raise ValueError(f"`absent` names job {job.id}, which does not join with this plan")
    for job in given_up:
        _check_lost(job, live, joins)
    away.update({job: None for job in given_up if job in joins})
    joined = [job for job in plan.joined if job not in away]
    before = NOTHING if plan.shares is None else plan.shares.found
    begins = {job: tokens for job, tokens in before.items() if job not in away}
    for job, tokens in found.items():
        _check_found(job, tokens, joins, away)
        begins[job] = tokens
    if prefill is None:
        chunks = [
            (job, min(tokens, _owed(job, begins)))
            for job, tokens in plan.prefill
            if not (job in away or job in given_up)
        ]
    else:
        stays = {job for job in plan.running if not (job.rolling or job in leaves or job in given_up)}
        _check_prefill(prefill, stays.union([job for job in joined if job.place is NOWHERE]), begins)
        chunks = list(prefill)
    # All is well: nothing has been changed so far.
    out = [job for job in given_up if job.running and job not in leaves]
    if plan.batch:
        for job in out:
            if job.rolling:
                plan.batch -= 1
                plan.context -= job.prompt + job.generated
        for job in away:
            if job.place is not NOWHERE:
                plan.batch -= 1
                plan.context -= job.prompt + job.tokens_base
    shares = UNSHARED if plan.shares is None else plan.shares
    plan.shares = Amended(begins, shares.evict, shares.forget, prefill, absent, lost, found)
    plan.moves = _moves(plan.moves, away, given_up)
    plan.joined = joined
    plan.left = [*plan.left, *out]
    plan.prefill = chunks
    plan.iterations = 1
    plan.service = plan.until = NEVER
    plan.hold = 0


def _owed(job: Job, begins: Mapping[Job, int]) -> int:
    """Tokens that its prefill owes behind what is there."""
    return job.prompt + job.tokens_base - job.prefilled - begins.get(job, 0)


def _moves(moves: Moves | None, away: Iterable[Job], lost: Iterable[Job]) -> Moves | None:
    """Who stays away loads nothing, and what is lost is neither copied nor kept."""
    gone = [job for job in lost if job.place is DEVICE and (moves is None or job not in moves.drop)]
    if moves is None and not gone:
        return None
    amended = Moves()
    if moves is not None:
        amended.store = moves.store
        amended.load = [copy for copy in moves.load if copy.job not in away]
        amended.park = [copy for copy in moves.park if copy.job not in lost]
        kept = set(moves.park).difference(amended.park)
        amended.clear = [copy for copy in moves.clear if copy not in kept]
        amended.drop = moves.drop
        amended.prefetch = moves.prefetch
    amended.drop = [*amended.drop, *gone]
    return amended


def _check_lost(job: Job, live: Mapping[Job, None], joins: Mapping[Job, None]) -> None:
    if job not in live:
        raise ValueError(f"`lost` names job {job.id}, which has departed: its KV is gone with it")
    if job.place is not DEVICE and not (job.place is NOWHERE and job in joins):
        raise ValueError(
            f"`lost` names job {job.id}, whose KV is {job.place.value}; only what lies on the device can be given up"
        )


def _check_found(job: Job, tokens: int, joins: Mapping[Job, None], away: Mapping[Job, None]) -> None:
    if job not in joins or job in away or job.place is not NOWHERE:
        raise ValueError(f"`found` names job {job.id}, which does not begin a prefill with this plan")
    most = job.prompt + job.tokens_base - 1
    if not 0 <= tokens <= most:
        raise ValueError(
            f"`found` says {tokens} tokens of job {job.id}; it is 0 to {most}, for its newest token is always computed"
        )


def _check_prefill(prefill: Chunks, may: Iterable[Job], begins: Mapping[Job, int]) -> None:
    seen: set[Job] = set()
    for job, tokens in prefill:
        if job in seen:
            raise ValueError(f"`prefill` names job {job.id} twice; add its tokens up")
        seen.add(job)
        if job not in may:
            raise ValueError(f"`prefill` names job {job.id}, which has no prefill to do in this plan")
        owed = _owed(job, begins)
        if not 1 <= tokens <= owed:
            raise ValueError(
                f"`prefill` says {tokens} tokens of job {job.id}, which owes {owed}: name 1 to {owed}, and leave out "
                f"who got none"
            )
