"""Plan and Outcome: what the Scheduler asks for and what the body reports. Data, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.units import Ids, Range


class Transfer:
    """A copy on its way. start, end: ns."""

    __slots__ = ("copy", "end", "start")

    def __init__(self, copy: Copy, start: int, end: int) -> None:
        self.copy = copy
        self.start = start
        self.end = end


class Moves:
    """What a plan asks of the link, and whose KV is forgotten."""

    __slots__ = ("clear", "drop", "load", "park", "prefetch", "store")

    def __init__(self) -> None:
        self.store: Sequence[Copy] = ()  # units that jobs have left behind: to the host, before what is parked
        self.load: list[Copy] = []  # must be on the device before the step; behind whole jobs, units from the host
        self.clear: list[Copy] = []  # must have ended before the step: it needs their blocks
        self.park: list[Copy] = []  # leaves the device; a loss-free preemption
        self.drop: list[Job] = []  # its KV is forgotten
        self.prefetch: list[Copy] = []  # should come, off the critical path


NOTHING: Final[dict[Job, int]] = {}
"""Found of no job; never written."""


class Shares:
    """What a plan does with KV that is named by its content, where prefixes are cached."""

    __slots__ = ("evict", "forget", "found")

    def __init__(self, found: Mapping[Job, int], evict: Sequence[Range], forget: Sequence[Range] = ()) -> None:
        self.found = found  # tokens of the prefix that are there when the step begins: on the device, or just loaded;
        # of who joins from nowhere or the host, or is prefetched
        self.evict = evict  # (ids, start, end): the units ids[start:end] go, the last first; in this order
        self.forget = forget  # the same of units on the host, before anything is copied there


UNSHARED: Final = Shares(NOTHING, ())
"""Of a plan that neither finds nor evicts."""


class Amended(Shares):
    """Of a plan that was amended, and with what: see Scheduler.amend(). `found` is what holds, all in all."""

    __slots__ = ("absent", "lost", "prefill", "told")

    def __init__(
        self,
        found: Mapping[Job, int],
        evict: Sequence[Range],
        forget: Sequence[Range],
        prefill: Sequence[tuple[Job, int]] | None,
        absent: Sequence[Job],
        lost: Sequence[Job],
        told: Mapping[Job, int],
    ) -> None:
        super().__init__(found, evict, forget)
        self.prefill = prefill
        self.absent = absent
        self.lost = lost
        self.told = told  # the argument `found`


class Plan:
    """What to do next. The first iteration does everything; the others repeat its decode step, and its chunk: a lone
    prefill goes on with as many of its next tokens.

    It may be repeated as it stands until the first of three bounds: so many `iterations`, the first one that brings the
    service to `service` ns, the first boundary at or after the wall clock `until` (ns).

    Where prefixes are cached, a body shares blocks as the plan says and decides nothing: it frees the units of `evict`,
    and who is `found` begins with the blocks of so many tokens of its prefix, which are on the device, or come with a
    copy of units in `load`. Before both, a job that drops its KV, or has been cleared, lets go of its units, which stay
    until they are evicted. Where the host remembers units, too, it frees those of `forget` there and then copies to it
    what is in `store`: units on the device that stay as they are until that copy has ended.
    """

    __slots__ = (
        "batch", "context", "gone", "hold", "iterations", "joined", "left", "moves", "now", "prefill", "running",
        "service", "shares", "until",
    )  # fmt: skip

    def __init__(
        self,
        now: int,
        running: dict[Job, None],
        gone: Sequence[Job] = (),
        joined: Sequence[Job] = (),
        left: Sequence[Job] = (),
        prefill: Sequence[tuple[Job, int]] = (),
        moves: Moves | None = None,
        batch: int = 0,
        context: int = 0,
        iterations: int = 1,
        service: int = NEVER,
        until: int = NEVER,
        hold: int = 0,
    ) -> None:
        self.now = now
        self.running = running  # who held a place before this plan; current until it is committed
        self.gone = gone  # cancelled or cut off since the last plan: to be forgotten
        self.joined = joined
        self.left = left
        self.prefill = prefill  # (job, tokens), best first
        self.moves = moves  # None if nothing moves
        self.batch = batch  # jobs that decode in this iteration
        self.context = context  # tokens that they attend to: prompt + generated, summed
        self.iterations = iterations
        self.service = service
        self.until = until
        self.hold = hold  # meter.service until which the visit guard keeps the batch as it is
        self.shares: Shares | None = None  # None where prefixes are not cached, unless it was amended

    def first(self, job: Job) -> int:
        """The first token that a prefill of this plan processes. Only before the plan is committed."""
        return job.prefilled if self.shares is None else job.prefilled + self.shares.found.get(job, 0)

    def completes(self, job: Job, tokens: int) -> bool:
        """Does a prefill of so many tokens complete its cache, so that it yields a token? Only before the commit."""
        return self.first(job) + tokens == job.prompt + job.generated

    @property
    def store(self) -> Sequence[Copy]:
        return self.moves.store if self.moves is not None else ()

    @property
    def load(self) -> Sequence[Copy]:
        return self.moves.load if self.moves is not None else ()

    @property
    def clear(self) -> Sequence[Copy]:
        return self.moves.clear if self.moves is not None else ()

    @property
    def park(self) -> Sequence[Copy]:
        return self.moves.park if self.moves is not None else ()

    @property
    def drop(self) -> Sequence[Job]:
        return self.moves.drop if self.moves is not None else ()

    @property
    def prefetch(self) -> Sequence[Copy]:
        return self.moves.prefetch if self.moves is not None else ()

    @property
    def amended(self) -> Amended | None:
        """What the body reported otherwise, last; None where all was done as planned."""
        return self.shares if isinstance(self.shares, Amended) else None

    @property
    def found(self) -> Mapping[Job, int]:
        return self.shares.found if self.shares is not None else NOTHING

    @property
    def evict(self) -> Sequence[Range]:
        return self.shares.evict if self.shares is not None else ()

    @property
    def forget(self) -> Sequence[Range]:
        return self.shares.forget if self.shares is not None else ()

    @property
    def members(self) -> list[Job]:
        """Who holds a place in the batch. Only before the plan is committed."""
        left = set(self.left)
        return [*[job for job in self.running if job not in left], *self.joined]

    @property
    def work(self) -> list[tuple[Job, int]]:
        """Members with tokens in this iteration: (job, tokens), prefills first. Only before the plan is committed."""
        decodes = [(job, 1) for job in self.members if job.decoding] if self.batch else []
        return [*self.prefill, *decodes]

    @property
    def due(self) -> list[Job]:
        """Members that get a token in an even iteration, prefills first. Only before the plan is committed."""
        return [job for job, tokens in self.work if job.decoding or self.completes(job, tokens)]

    def __repr__(self) -> str:
        return (
            f"<Plan at {self.now}: +{len(self.joined)} -{len(self.left)}, {len(self.prefill)} prefills, "
            f"{self.batch} decodes, at most {self.iterations} iterations>"
        )


class Outcome:
    """What has happened: at least one iteration, and never more than the plan's bounds allow.

    service: ns of iteration time; stall: ns that the step waited for copies. first: ns from the start to the end of the
    first iteration, the stall included; gap: ns, the longest of the other iterations (both rounded up). ended: who has
    its last token, or will get none. copied: the copies that have ended by now, those of this plan's load and clear
    among them.

    extra: of an uneven iteration, (job, delta) for each job that got 1 + delta tokens where an even one yields one: -1
    is none; the most is the Scheduler's `lookahead`, for so many blocks are reserved. Only members that decode or end
    their prefill in the plan can be named, and only after a single iteration. A job's tokens of one iteration come
    together, at its end. The body ends a job at its own end and at its limit, and tells of no token beyond. Whatever
    the step wrote, a job's KV counts as complete but for its newest token, which the next step writes (again, if so).

    drafts: (job, drafted, accepted) of each job that verified guesses of its next tokens in this iteration: how many,
    and how many of them, from the first one on, were right. Only told; what a job got is in `extra`, which ends where
    the job does.

    answers: of jobs that have ended, the ids of the units that prompt and answer fill beyond those of the prompt, so
    that who continues the answer finds it. What is not told is not found.

    calls: of jobs that have ended, the tool that the answer calls, where that is known.
    """

    __slots__ = (
        "answers", "calls", "copied", "drafts", "ended", "extra", "first", "gap", "iterations", "service", "stall",
    )  # fmt: skip

    def __init__(
        self,
        iterations: int,
        service: int,
        stall: int = 0,
        ended: Sequence[Job] = (),
        copied: Sequence[Copy] = (),
        first: int = 0,
        gap: int = 0,
        extra: Sequence[tuple[Job, int]] = (),
        answers: Mapping[Job, Ids] | None = None,
        calls: Mapping[Job, str] | None = None,
        drafts: Sequence[tuple[Job, int, int]] = (),
    ) -> None:
        self.iterations = iterations
        self.service = service
        self.stall = stall
        self.ended = ended
        self.copied = copied
        self.first = first
        self.gap = gap
        self.extra = extra
        self.answers = answers
        self.calls = calls
        self.drafts = drafts

    def __repr__(self) -> str:
        took = f"{self.service} ns and a stall of {self.stall} ns"
        return f"<Outcome: {self.iterations} iterations in {took}, {len(self.ended)} ended>"
