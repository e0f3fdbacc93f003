"""The working set: programs whose contexts fit into the KV pool together take turns; the others are held back.

When the contexts of the agents at work outgrow the pool, every order that lets all of them in thrashes: each turn
evicts what the next one needs. So the oldest programs whose contexts fit are *at work*, and the turns of the others
wait, though slots are idle (Denning's working set, 1968, for programs instead of pages). Two questions remain.

For how long does the context of an idle program count? Kept for t ns, c of the pool's P tokens do nothing: c * t
token-ns, taken from the others. Lost, the machine computes it again for B ns when the program returns (or loads it from
the host, where that keeps prefixes and is quicker), and serves nobody else: P * B token-ns. So it is kept while what
that saves on average over the gaps seen so far, given how long it has been idle, is more than what it costs (gaps.py):
there is no time to set. Whoever is not worth the room goes only when somebody needs it.

Who goes first? The oldest program, by its first arrival, and none overtakes one that is held: a young one waits until
there is room. `max_wait` bounds that: before its bound is over, the program whose turn has waited longest comes in the
place of idle ones, those first whose loss is least. And what is small beside the pool, a chat beside agents, is never
held: it takes from the contexts that are kept no more than its own few tokens, the deepest ones of the youngest.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

from fastserve.policies.gaps import Gaps
from fastserve.policies.gate import Gate, Member
from fastserve.sched.checks import seconds
from fastserve.sched.job import NEVER, Job

SMALL = 128
"""A context of at most one part in so many of the pool is small."""

HORIZON = 64
"""Held turns whose deadlines are looked at together, the next ones."""


class WorkingSet(Gate):
    """Rank: (not late for `max_wait`, arrival of the turn if it is, else of the program's first job).

    max_wait: s for which a turn is held back at most, as far as there is room to be had; 0: no bound. ttl: s for which
    an idle program counts, instead of what the gaps seen so far say.
    """

    def __init__(self, max_wait: float = 540.0, ttl: float | None = None) -> None:
        super().__init__()
        seconds("max_wait", max_wait)
        seconds("ttl", ttl)
        self.bound = round(max_wait * 1e9)
        self.ttl = None if ttl is None else round(ttl * 1e9)
        self.gaps = Gaps()
        self.small: dict[str, int] = {}  # tokens of those at work that came as small; `inside` does not list them
        self.small_tokens = 0
        self.asking: dict[Job, None] = {}  # jobs that may be without a token yet, who came first
        self.queue: list[tuple[int, tuple[int, str], Member]] = []  # those in `line`, by when they asked
        self.asked: dict[str, int] = {}  # ns, as it stands there
        self.answered = 0  # tokens of all answers, and how many there were
        self.answers = 0
        self.stored = 0.0  # of this look: see _stored()

    def arrive(self, job: Job) -> None:
        self.asking[job] = None
        super().arrive(job)

    def depart(self, job: Job) -> None:
        self.asking.pop(job, None)
        self.answered += job.generated
        self.answers += 1
        super().depart(job)

    def returned(self, program: Member) -> None:
        self.gaps.back(program.name, self.now)
        if not program.inside and program.tokens * SMALL <= self.machine.pool_tokens:
            self.dequeue(program)
            program.inside = True
            self.small[program.name] = program.tokens
            self.small_tokens += program.tokens

    def left(self, program: Member) -> None:
        self.gaps.left(program.name, self.now)
        if program.name in self.small:
            self.drop(program)

    def over(self, program: Member) -> None:
        self.gaps.over(program.name)

    def enqueue(self, program: Member) -> None:
        super().enqueue(program)
        self.asked[program.name] = program.asked
        insort(self.queue, (program.asked, program.age, program))

    def dequeue(self, program: Member) -> None:
        super().dequeue(program)
        del self.queue[bisect_left(self.queue, (self.asked.pop(program.name), program.age, program))]

    # -- who is at work --------------------------------------------------------------------------------------------

    def look(self) -> None:
        self._put_late_first()
        pool = max(0, self.machine.pool_tokens - self.small_tokens)
        if self.line or sum([one.tokens for _, one in self.inside]) > pool:
            self.stored = self._stored()
            self._shrink(pool)
            again = self._let_in_late(pool)
            while self.line and self._make_room(self.line[0][1], self._worthless, pool):
                pass
            self.ring(min(again, self._next_worthless()))

    def let_in(self, program: Member) -> None:
        super().let_in(program)
        self.keep(program.name, NEVER, -program.began)  # if need be, the youngest goes first
        if self.bound and self.now - program.asked >= self.bound:
            self.put_first(program, True, program.asked)

    def drop(self, program: Member) -> None:
        if program.name in self.small:
            self.small_tokens -= self.small.pop(program.name)
            program.inside = False
        else:
            super().drop(program)
            self.keep(program.name, 0)

    def _shrink(self, pool: int) -> None:
        """They have outgrown the pool: idle ones go that are not worth their room, then the youngest that does not run,
        but never the last one.
        """
        while len(self.inside) > 1 and sum(self.sizes(self.members())) > pool:
            still = self._worthless() or [one for _, one in reversed(self.inside) if not one.running]
            if not still:
                return
            self.drop(still[0])

    def _make_room(self, program: Member, whom: Callable[[], list[Member]], pool: int) -> bool:
        """It is let in if it fits, once some of those that whom() names have gone, in its order."""
        others = self.members()
        sizes = self.sizes([*others, program])
        lacks = sum(sizes) - pool
        out: list[Member] = []
        if lacks > 0 and others:
            size = {other.name: tokens for other, tokens in zip(others, sizes, strict=False)}
            for other in whom():
                out.append(other)
                lacks -= size[other.name]
                if lacks <= 0:
                    break
            else:
                return False
        for other in out:
            self.drop(other)
        self.let_in(program)
        return True

    def sizes(self, programs: list[Member]) -> list[int]:
        """With what the answers of live jobs will add: they are thought to become as long as answers are on average."""
        usual = self.answered // self.answers if self.answers else 0
        more = [sum([max(0, usual - job.generated) for job in program.live]) for program in programs]
        return [tokens + added for tokens, added in zip(super().sizes(programs), more, strict=True)]

    # -- what an idle context is worth -----------------------------------------------------------------------------

    def _value(self, program: Member) -> tuple[float, int]:
        """Of keeping an idle program's context: ns of the machine that are gained a token; and ns until when."""
        age = self.now - program.idle
        if self.ttl is not None:
            return float(max(0, self.ttl + 1 - age)), program.idle + self.ttl + 1
        tokens = max(1, program.context)
        lose = self._lose(tokens)
        gained, until = self.gaps.worth(age, self.now, lose, tokens / self.machine.pool_tokens)
        return gained / tokens, program.idle + until

    def _lose(self, tokens: int) -> float:
        """ns of the machine to have a context back: to compute it, or to load what is thought to be on the host, which
        is as much of each as it has room for of all those that may come back.
        """
        computed = float(self.machine.prefill_ns(tokens))
        if not self.stored:
            return computed
        loaded = float(max(0, self.machine.load_ns(tokens)))
        return computed - (computed - loaded) * self.stored if loaded < computed else computed

    def _stored(self) -> float:
        """Share of all contexts that may come back for which there is room on the host."""
        store = self.machine.host_prefix_tokens
        if not store:
            return 0.0
        return min(1.0, store / max(1, sum([program.tokens for program in self.programs.known.values()])))

    def _idle(self) -> list[Member]:
        """Those at work without a live job, whose contexts are worth least first."""
        worth = sorted([(self._value(one)[0], age, one) for age, one in self.inside if not one.live])
        return [one for _, _, one in worth]

    def _worthless(self) -> list[Member]:
        return [one for one in self._idle() if self._value(one)[0] <= 0]

    def _next_worthless(self) -> int:
        """ns: when the next of those that are idle is worth nothing any more; NEVER."""
        if not self.line:
            return NEVER
        values = [self._value(one) for _, one in self.inside if not one.live]
        return min([until for worth, until in values if worth > 0], default=NEVER)

    # -- the bound -------------------------------------------------------------------------------------------------

    def _put_late_first(self) -> None:
        """Who is at work and has waited beyond the bound for a first token goes first, by when it asked."""
        while self.bound and self.asking:
            job = next(iter(self.asking))
            if not job.generated and self.now - job.arrival < self.bound:
                return
            del self.asking[job]
            program = self.programs.of[job]
            if not job.generated and program.inside:
                self.put_first(program, True, program.asked)

    def _let_in_late(self, pool: int) -> int:
        """Whoever would else be held beyond the bound. Returns ns, when the next one must come in; NEVER.

        They come in by deadline, each after the prefills of those before it.
        """
        while self.bound and self.queue:
            ahead, latest = 0, NEVER
            for asked, _, one in self.queue[:HORIZON]:
                ahead += self.machine.prefill_ns(max(1, one.tokens))
                latest = min(latest, asked + self.bound - ahead)
                if latest <= self.now:
                    break
            else:
                return latest
            one = self.queue[0][2]
            if not self._make_room(one, self._displaced, pool):
                return NEVER
            self.put_first(one, True, one.asked)
        return NEVER

    def _displaced(self) -> list[Member]:
        """Who makes room for one that is late: idle programs, then young ones that wait, but have not done so long."""
        waits = [one for _, one in reversed(self.inside) if one.live and not (one.running or one.first)]
        recent = [one for one in waits if self.now - one.asked < self.bound // 2]
        return self._idle() + recent
