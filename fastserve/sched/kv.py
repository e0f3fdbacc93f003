"""The KV ledger: who holds how many blocks where.

Device blocks are either `used` (by the running jobs, the next token's block included) or `cold`: parked KV, KV on its
way out, and room that a copy on its way in will fill. A copy's destination is occupied until the copy has ended,
whatever becomes of the job; its source belongs to the job.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastserve.sched.errors import RefusedError
from fastserve.sched.job import COMING, DEVICE, HOST, LEAVING, NEVER, NOWHERE, Copy, Job


class Ledger:
    """blocks, host: the pools, in blocks of `block` tokens. whole: reserve prompt + limit at once, as Orca does.

    lookahead: tokens beyond the next one that an iteration may write.
    """

    __slots__ = (
        "away", "block", "blocks", "cold", "copies", "host", "hosted", "leaving", "lookahead", "margin", "parked",
        "phase", "saved", "used", "whole",
    )  # fmt: skip

    def __init__(self, blocks: int, host: int, block: int, whole: bool, lookahead: int = 0) -> None:
        self.blocks = blocks
        self.host = host
        self.block = block
        self.whole = whole
        self.lookahead = lookahead
        self.margin = lookahead + block - 1  # the lookahead, and whole blocks
        self.used = 0
        self.cold = 0
        self.saved = 0  # blocks that a plan under way has counted as cold, and that are in use or cold by another job
        self.leaving = 0  # the part of `cold` that a copy out will free by itself
        self.hosted = 0
        self.parked: dict[Job, None] = {}  # waiting jobs at DEVICE
        self.away: dict[Job, None] = {}  # waiting jobs at HOST
        self.copies: dict[Copy, None] = {}  # under way, in the order of issue
        self.phase = [0] * block  # growing rolling jobs by (tokens + lookahead - steps) mod block: who needs one when

    def need(self, job: Job) -> int:
        """Blocks for its next iteration, however many tokens that yields."""
        if self.whole and job.limit < NEVER:
            return (job.prompt + job.limit + self.margin) // self.block
        generated = job.generated if job.rolling else job.tokens_base  # (to ask a property takes time)
        return (job.prompt + generated + self.margin) // self.block

    def check(self, job: Job) -> None:
        """Raises RefusedError for a job whose first iteration would not fit even alone."""
        blocks = self.need(job)
        if blocks > self.blocks:
            what = f"a prompt of {job.prompt} tokens"
            if self.whole and job.limit < NEVER:
                what += f" with up to {job.limit} more reserved"
            if self.lookahead:
                what += f" and a lookahead of {self.lookahead}"
            raise RefusedError(
                f"job {job.id}: {what} needs {blocks} KV blocks of {self.block} tokens, the device has {self.blocks}: "
                f"the prompt is too long"
            )

    def grows(self, job: Job) -> bool:
        """Does it take more blocks as it runs? Not one whose limit was reserved."""
        return not self.whole or job.limit >= NEVER

    def held(self, job: Job) -> int:
        """Blocks of its KV as it stands, when that is complete: all tokens but the newest."""
        return -(-(job.prompt + job.generated - 1) // self.block)

    # -- what if: asked while a plan is made; where blocks are shared, SharedLedger knows better ------------------

    def missing(self, job: Job) -> int:
        """Blocks of KV on the host that a copy in must bring."""
        return self.held(job)

    def alone(self, job: Job) -> int:
        """Device blocks that a waiting job, or one that leaves, would free if its KV went."""
        return self.held(job)

    def release(self, job: Job) -> int:
        """The same, and its KV does go with this plan."""
        return self.held(job)

    def fetch(self, job: Job, most: int) -> int:
        """Device blocks that its prefetch takes, and it comes with this plan; above `most` it does not: -1."""
        held = self.held(job)
        return held if held <= most else -1

    # -- the running jobs ------------------------------------------------------------------------------------------

    def join(self, job: Job) -> None:
        """From wherever it lies into the batch."""
        place = job.place
        if place is not NOWHERE:
            held = self.held(job)
            if place is HOST:
                self.hosted -= held
                del self.away[job]
            else:
                self.cold -= held
                if place is DEVICE:
                    del self.parked[job]
                else:
                    copy = job.copy
                    assert copy is not None
                    job.copy = None
                    if place is LEAVING:
                        self.leaving -= held
                        copy.orphan = True
                    else:
                        self.hosted -= held
                        del self.copies[copy]
        job.place = DEVICE
        self.used += self.need(job)

    def leave(self, job: Job) -> None:
        """Out of the batch; its KV stays parked. job.generated must be up to date."""
        self.cold += self.held(job)
        self.parked[job] = None

    def roll(self, job: Job, by: int) -> None:
        """by = 1: job.tokens_base has just been made relative to the step counter; -1: it is about to stop being so."""
        if not self.whole or job.limit >= NEVER:  # it grows
            self.phase[(job.prompt + job.tokens_base + self.lookahead) % self.block] += by

    def advance(self, steps: int, k: int) -> None:
        """k decode iterations from `steps` on: the rolling jobs take their next blocks."""
        phase = self.phase
        block = self.block
        if k == 1:
            self.used += phase[-steps % block]
            return
        if k >= block:
            self.used += k // block * sum(phase)
            k %= block
        for i in range(steps, steps + k):
            self.used += phase[-i % block]

    def amend(self, job: Job, delta: int) -> None:
        """A rolling job got so many tokens more than the step counter has given it."""
        used = self.need(job)
        self.roll(job, -1)
        job.tokens_base += delta
        self.roll(job, 1)
        self.used += self.need(job) - used

    def correct(self, job: Job, delta: int) -> None:
        """A live job has so many tokens more than were counted, wherever it is; a copy of its KV carries them."""
        if job.rolling:
            self.amend(job, delta)
            return
        place = job.place
        blocks = self.need(job) if job.running else self.held(job)
        job.tokens_base += delta
        if job.running:
            self.used += self.need(job) - blocks
        elif place is not NOWHERE:
            more = self.held(job) - blocks
            if place is not HOST:
                self.cold += more
            if place is not DEVICE:
                self.hosted += more
            if job.copy is not None:
                job.copy.blocks += more
                if place is LEAVING:
                    self.leaving += more

    def steps_within(self, room: int, batch: int, steps: int, most: int, plan_phase: list[int]) -> int:
        """The first number of iterations, at most `most`, after which the batch has outgrown `room` more blocks."""
        block = self.block
        cycles = room // batch  # in `block` steps every job takes one block
        done = cycles * block
        if done >= most:
            return most
        growth = cycles * batch
        while done < most:
            growth += plan_phase[-(steps + done) % block]
            done += 1
            if growth > room:
                break
        return done

    # -- the waiting jobs ------------------------------------------------------------------------------------------

    def drop(self, job: Job) -> None:
        """Parked KV is forgotten."""
        del self.parked[job]
        self.cold -= self.held(job)
        job.place = NOWHERE
        job.prefilled = 0

    def start(self, copy: Copy) -> None:
        """A copy of parked KV out, or of hosted KV in ahead of need, is under way."""
        job = copy.job
        job.copy = copy
        self.copies[copy] = None
        if copy.out:
            del self.parked[job]
            job.place = LEAVING
            self.leaving += copy.blocks
            self.hosted += copy.blocks
        else:
            del self.away[job]
            job.place = COMING
            self.cold += copy.blocks

    def begin(self, drop: Iterable[Job], park: Iterable[Copy], prefetch: Iterable[Copy]) -> None:
        """What a plan does with the KV of waiting jobs."""
        for job in drop:
            self.drop(job)
        for copy in park:
            self.start(copy)
        for copy in prefetch:
            self.start(copy)

    def finish(self, copy: Copy) -> None:
        """A copy has ended. One that its job has joined by is no longer on the books."""
        if copy not in self.copies:
            return
        del self.copies[copy]
        if copy.orphan:
            if copy.out:
                self.hosted -= copy.blocks
            else:
                self.cold -= copy.blocks
            return
        job = copy.job
        job.copy = None
        if copy.out:
            self.cold -= copy.blocks
            self.leaving -= copy.blocks
            job.place = HOST
            self.away[job] = None
        else:
            self.hosted -= copy.blocks
            job.place = DEVICE
            self.parked[job] = None

    def give_way(self, copies: Iterable[Copy]) -> None:
        """Of these, the prefetches give their room to somebody else."""
        for copy in copies:
            if not copy.out:
                self.abort(copy)

    def abort(self, copy: Copy) -> None:
        """A prefetch gave its room to somebody else; the KV is still on the host."""
        if copy.orphan:
            return
        job = copy.job
        job.copy = None
        del self.copies[copy]
        self.cold -= copy.blocks
        job.place = HOST
        self.away[job] = None

    def forget_all(self, jobs: Iterable[Job]) -> None:
        """All KV is lost, and so is what copies under way would have brought. Nobody has a place in the batch."""
        self.cold = self.leaving = self.hosted = 0
        self.parked.clear()
        self.away.clear()
        self.copies.clear()
        for job in jobs:
            job.place = NOWHERE
            job.prefilled = 0
            job.copy = None

    def remove(self, job: Job) -> None:
        """A waiting job has gone."""
        place = job.place
        if place is NOWHERE:
            return
        held = self.held(job)
        if place is DEVICE:
            del self.parked[job]
            self.cold -= held
        elif place is HOST:
            del self.away[job]
            self.hosted -= held
        else:
            copy = job.copy
            assert copy is not None
            copy.orphan = True
            job.copy = None
            if place is LEAVING:
                self.cold -= held
                self.leaving -= held
            else:
                self.hosted -= held
        job.place = NOWHERE
