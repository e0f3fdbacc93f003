"""Job: everything a scheduler may know about one request, and the clocks that keep it current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from fastserve.sched.units import Ids, Range, Run, Tree

NEVER: Final = 1 << 60
"""A time, a count or a number of blocks beyond all others."""


class Place(Enum):
    """Where the KV cache of a job lies."""

    NOWHERE = "nowhere"  # never computed, or forgotten: joining means a prefill
    DEVICE = "device"  # in use, or parked: joining costs nothing
    LEAVING = "leaving"  # still whole on the device while it is copied out
    HOST = "host"  # joining means a copy in
    COMING = "coming"  # on the host while it is copied in ahead of need


NOWHERE: Final = Place.NOWHERE
DEVICE: Final = Place.DEVICE
LEAVING: Final = Place.LEAVING
HOST: Final = Place.HOST
COMING: Final = Place.COMING


class Meter:
    """The clocks of one Scheduler, shared with its jobs: a stretch of iterations moves every running job at once."""

    __slots__ = ("block", "lookahead", "now", "reach", "service", "steps", "tree")

    def __init__(
        self,
        block: int,
        lookahead: int = 0,
        tree: Tree | None = None,
        reach: Callable[[Ids, int, int], int] | None = None,
    ) -> None:
        self.block = block  # tokens in a KV block
        self.lookahead = lookahead  # tokens beyond the next one that an iteration may write
        self.now = 0  # ns, the wall: the time of the last thing the Scheduler was told
        self.steps = 0  # decode iterations so far
        self.service = 0  # ns of charged iteration time so far
        self.tree = tree  # what the device remembers by content; None: prefixes are not cached
        self.reach = reach  # see HostTier.reach(); None: the host remembers nothing by content


class Job:
    """One request. Policies read it; the Scheduler alone writes it.

    The true output length is not here: the driver keeps it, and `limit` must not leak it.

    id: dense from 0 in a replay. arrival: ns. prompt, limit, guess: tokens (limit: the client's max tokens; guess: a
    predictor's output length, None unless the policy `needs` it). client, program: names. priority: the smaller, the
    more urgent. deadline: ns, arrival + slo.e2e, else + slo.ttft; NEVER without one. ids: of the units that its prompt
    fills, each naming its content and all before it; empty where that is not known. tool: the name of the one whose
    result its prompt brings. final: the client says that nothing of its program follows.

    A job that comes with output tokens already made, as where another Scheduler has begun it, has `tokens_base` set
    before it is submitted: they count as generated, and its prefill computes them with the prompt.
    """

    __slots__ = (
        "arrival", "calls", "client", "clock_base", "copy", "deadline", "entry", "final", "finish", "fresh", "guess",
        "hold", "id", "ids", "joined_at", "last", "limit", "meter", "place", "preemptions", "prefilled", "priority",
        "program", "prompt", "queue", "rolling", "running", "served_goal", "since", "tail", "tokens_base",
        "tokens_goal", "tool", "waited",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        arrival: int,
        prompt: int,
        limit: int = NEVER,
        client: str = "",
        program: str = "",
        priority: int = 0,
        deadline: int = NEVER,
        guess: int | None = None,
        ids: Sequence[int] = (),
        tool: str = "",
        final: bool = False,
    ) -> None:
        self.id = id
        self.arrival = arrival
        self.prompt = prompt
        self.limit = limit
        self.client = client
        self.program = program
        self.priority = priority
        self.deadline = deadline
        self.guess = guess
        self.ids = ids
        self.tool = tool
        self.final = final

        self.prefilled = 0  # tokens that prefills have put into its KV; 0 again once that is forgotten
        self.running = False  # has a place in the batch
        self.place: Place = NOWHERE
        self.preemptions = 0
        self.finish = ""  # "stop", "length", "truncated", "cancelled", "rejected"; empty while it lives
        self.calls = ""  # the tool that its answer calls; empty until it has ended, and where that is not known

        # The Scheduler's own; policies have no use for these.
        self.rolling = False  # running with a complete cache: the step counter counts its tokens
        self.fresh = False  # running, and without a token since it joined: its place is safe
        self.tokens_base = 0  # tokens generated; while rolling: the same less meter.steps
        self.clock_base = 0  # ns served; while running: the same less meter.service
        self.last = arrival  # ns, when it last gave up its place
        self.since = arrival  # ns, when its present wait began or its last "waited" alarm rang
        self.served_goal = NEVER  # ns of service, tokens: where the alarms ring
        self.tokens_goal = NEVER
        self.waited = 0  # ns, the period of the third alarm; 0: none
        self.joined_at = 0  # meter.service when this visit began
        self.hold: Hold | None = None  # None: the policy has never held it back
        self.copy: Copy | None = None  # the copy under way, while LEAVING or COMING
        self.tail: Run | None = None  # the last run of the units that it holds
        self.entry: tuple[Any, int, int, Job] | None = None
        self.queue: list[tuple[Any, int, int, Job]] | None = None
        self.meter: Meter | None = None

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        if self.rolling:
            assert self.meter is not None
            return self.tokens_base + self.meter.steps
        return self.tokens_base

    @property
    def served(self) -> int:
        """Nanoseconds charged so far, over all its visits."""
        if self.running:
            assert self.meter is not None
            return self.clock_base + self.meter.service
        return self.clock_base

    @property
    def held_back(self) -> bool:
        """By the policy: it waits, and is not offered for admission."""
        return self.hold is not None and self.hold.on

    @property
    def held(self) -> int:
        """Nanoseconds that the policy has held it back, so far."""
        hold = self.hold
        if hold is None:
            return 0
        if hold.on:
            assert self.meter is not None
            return hold.base + self.meter.now
        return hold.base

    @property
    def overruled(self) -> bool:
        """It joined once though it was held back, since nothing ran and nobody would have been woken."""
        return self.hold is not None and self.hold.overruled

    @property
    def last_served(self) -> int:
        """Nanoseconds: when it last had a place in the batch; its arrival if it never had one."""
        if self.running:
            assert self.meter is not None
            return self.meter.now
        return self.last

    @property
    def blocks(self) -> int:
        """KV blocks that it holds or would need next, on the device or the host; 0 while its KV is nowhere."""
        meter = self.meter
        if self.place is NOWHERE or meter is None:
            return 0
        return -(-(self.prompt + self.generated + (meter.lookahead if self.running else -1)) // meter.block)

    @property
    def shared(self) -> int:
        """Units of its prompt that it holds on the device, the leading ones; others may hold them too."""
        return self.tail.end if self.tail is not None else 0

    @property
    def cached(self) -> int:
        """Tokens that it would find on the device if it joined now; all but the newest where its KV is there.

        It changes as others compute and lose KV, so only an unsettled policy may rank by it as it stands; a settled one
        may read it when the job arrives, or in waiting().
        """
        if self.running or not (self.place is NOWHERE or self.place is HOST):
            return self.prompt + self.generated - 1 if self.decoding else self.prefilled
        if self.meter is None or self.meter.tree is None:
            return 0
        return self.meter.tree.found(self.ids, self.prompt + self.generated - 1)

    @property
    def cached_host(self) -> int:
        """Tokens beyond these that it would load from the host if it joined now. It changes as `cached` does."""
        meter = self.meter
        if self.running or self.place is not NOWHERE or meter is None or meter.tree is None or meter.reach is None:
            return 0
        most = self.prompt + self.generated - 1
        here = meter.tree.found(self.ids, most)
        return meter.reach(self.ids, here // meter.tree.unit, meter.tree.whole(self.ids, most)) * meter.tree.unit - here

    @property
    def decoding(self) -> bool:
        """Its cache is complete but for the newest token, wherever it lies: no prefill is owed."""
        return self.rolling or (not self.running and self.place is not NOWHERE)

    def __repr__(self) -> str:
        state = self.finish or ("running" if self.running else f"waiting, KV {self.place.value}")
        return f"<Job {self.id}: prompt {self.prompt}, generated {self.generated}, {state}>"


def age(job: Job) -> tuple[int, int]:
    """The order of jobs wherever nothing else decides: by arrival, then by id."""
    return job.arrival, job.id


class Hold:
    """What became of a job that a policy has held back."""

    __slots__ = ("base", "on", "overruled")

    def __init__(self) -> None:
        self.on = False
        self.base = 0  # ns held back; while it is on: the same less the wall clock
        self.overruled = False


class Copy:
    """KV on its way between device and host: all that a job has, or `units` of a path, which stay where they come from.

    The body knows when it ends and reports it by identity. Whatever becomes of the job, the destination stays occupied
    until the copy has ended.
    """

    __slots__ = ("blocks", "job", "orphan", "out", "units")

    def __init__(self, job: Job, blocks: int, out: bool, units: Range | None = None) -> None:
        self.job = job  # of units that go out: what stands for the job that has left them behind, with its id
        self.blocks = blocks
        self.out = out  # device to host; else host to device
        self.orphan = False  # nobody waits for it any more; the Scheduler writes this
        self.units = units

    def __repr__(self) -> str:
        return f"<Copy {'out' if self.out else 'in'} of job {self.job.id}, {self.blocks} blocks>"
