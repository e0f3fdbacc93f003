"""The gate: whole programs are let in to work or held back between their turns. What such policies have in common."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from fastserve.policies.programs import Program, Programs
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy


class Member(Program):
    """inside: at work, its jobs are not held. entered: it has been so before. first: it goes before the others inside.
    order: among those who do or do not; ns, when it began, unless put_first() says another time. context: tokens, as of
    its last turn, while it is idle.
    """

    __slots__ = ("context", "entered", "first", "inside", "order")

    def __init__(self, name: str, began: int) -> None:
        super().__init__(name, began)
        self.inside = False
        self.entered = False
        self.first = False
        self.order = began
        self.context = 0

    @property
    def asked(self) -> int:
        """ns, when its oldest live job came."""
        return min([job.arrival for job in self.live])

    @property
    def tokens(self) -> int:
        """Of its context; what its branches share is counted for each of them."""
        return sum([job.prompt + job.generated for job in self.live]) if self.live else self.context


class Gate(Policy):
    """Rank: (not put first, arrival of the program's first job). A subclass has look(), in which it lets in and drops.

    Its state is complete when look() is called: after each arrival, end, end of a program, and alarm.
    """

    settled = True

    def __init__(self) -> None:
        self.programs: Programs[Member] = Programs(Member)
        self.inside: list[tuple[tuple[int, str], Member]] = []  # by age, idle ones too
        self.line: list[tuple[tuple[int, str], Member]] = []  # by age: those outside that have a live job
        self.bell: Job | None = None  # the held job whose alarm tells when to look again
        self.rang: dict[Job, int] = {}  # ns, when the alarm of a held job rang last

    def look(self) -> None:
        """Decides who is inside from now on."""
        raise NotImplementedError

    def returned(self, program: Member) -> None:
        """It was idle or is new, and one of its jobs has come; before look()."""

    def left(self, program: Member) -> None:
        """None of its jobs lives any more, and it may come back; before look()."""

    def over(self, program: Member) -> None:
        """It will not come back; it is outside already."""

    # -- what the Scheduler tells ----------------------------------------------------------------------------------

    def rank(self, job: Job) -> tuple[bool, int]:
        program = self.programs.of[job]
        return not program.first, program.order

    def arrive(self, job: Job) -> None:
        program = self.programs.arrive(job)
        if len(program.live) == 1:
            if not program.inside:
                self.enqueue(program)
            self.returned(program)
        self.look()
        if not program.inside:
            self.hold(job)

    def depart(self, job: Job) -> None:
        self.rang.pop(job, None)
        if job is self.bell:
            self.bell = None
        program = self.programs.depart(job, self.now)
        if not program.live:
            self.put_first(program, False)
            if not program.inside:
                self.dequeue(program)
            if job.program and not job.final:
                program.context = self.context(program.name)
                self.left(program)
            else:
                self._over(program)
        self.look()

    def ended(self, program: str) -> None:
        known = self.programs.known.get(program)
        if known is not None and not known.live:
            self._over(known)
            self.look()

    def alarm(self, job: Job, why: str) -> None:
        self.rang[job] = self.now
        self.look()

    def _over(self, program: Member) -> None:
        self.programs.forget(program.name)
        if program.inside:
            self.drop(program)
        self.over(program)

    # -- what a subclass does --------------------------------------------------------------------------------------

    def let_in(self, program: Member) -> None:
        """It comes to work: its jobs are held no longer."""
        if program.live:
            self.dequeue(program)
        program.inside = program.entered = True
        insort(self.inside, (program.age, program))
        for job in program.live:
            self.release(job)

    def drop(self, program: Member) -> None:
        """It is at work no longer: its jobs that wait are held. None of them runs."""
        self.inside.remove((program.age, program))
        program.inside = False
        self.put_first(program, False)
        if program.live:
            self.enqueue(program)
            for job in program.live:
                self.hold(job)

    def enqueue(self, program: Member) -> None:
        """It is outside, and has a live job."""
        insort(self.line, (program.age, program))

    def dequeue(self, program: Member) -> None:
        """It comes in, or has no live job any more."""
        del self.line[bisect_left(self.line, (program.age, program))]

    def put_first(self, program: Member, first: bool, order: int | None = None) -> None:
        """order: ns; by default when it began."""
        order = program.began if order is None else order
        if program.first != first or program.order != order:
            program.first, program.order = first, order
            for job in program.live:
                self.rerank(job)

    def ring(self, at: int) -> None:
        """Asks for a look at this time, ns, by the alarm of a job that is held; NEVER for none."""
        bell = next(iter(self.line[0][1].live)) if self.line and at < NEVER else None
        if self.bell is not None and self.bell is not bell:
            self.wake(self.bell, waited=None)
        self.bell = bell
        if bell is not None:
            since = max(bell.last_served, self.rang.get(bell, 0))
            self.wake(bell, waited=max(at, self.now + self.machine.decode_ns) - since)

    def members(self) -> list[Member]:
        """Who is inside, by age."""
        return [program for _, program in self.inside]

    def sizes(self, programs: list[Member]) -> list[int]:
        """Tokens of the context that each adds to those before it: where they may not fit, what is shared by content
        is counted once.
        """
        sizes = [program.tokens for program in programs]
        return self.exact(programs) if sum(sizes) > self.machine.pool_tokens else sizes

    def exact(self, programs: Iterable[Member]) -> list[int]:
        return self.contexts([_named(program) for program in programs])

    def misfit(self, program: Member) -> str:
        """Why it is held, in tokens and programs."""
        others = self.members()
        sizes = self.sizes([*others, program])
        return f"its program's {sizes[-1]:,} tokens do not fit beside the {sum(sizes[:-1]):,} of {told(len(others))}"

    def explain(self, job: Job) -> str:
        program = self.programs.of[job]
        if program.inside:
            return f"its program began at {program.began / 1e9:.3f} s"
        older = self.line.index((program.age, program))
        return self.misfit(program) + (f"; {older} older {'one waits' if older == 1 else 'ones wait'}" if older else "")


def told(programs: int) -> str:
    return f"{programs} program{'s' * (programs != 1)} at work"


def _named(program: Member) -> str | Job:
    """As Policy.contexts() takes it."""
    first = next(iter(program.live), None)
    return program.name if first is None or first.program else first
