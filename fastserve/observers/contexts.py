"""Contexts: whose prompts begin alike on the device, what of them is idle, and what was evicted and computed again.

A row is a context: that of a live job, or the last one of a program that has none. Its segments are runs of units in
order from its first token; a run that several contexts begin with has one number in all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from fastserve.sched import observer
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job, Place
from fastserve.sched.observer import Observer, said
from fastserve.sched.plan import Plan
from fastserve.sched.units import Ids, Run

MOST_GONE = 1 << 17
"""Evicted units that are remembered, the latest: one that is computed again after so many others counts as new."""

MOST_NUMBERS = 1000
"""Programs that keep their number, the latest that were shown."""

MOST_ROWS = 32
"""Contexts that are shown: those that run, then those that wait, then the idle ones."""

ORDER = {"running": 0, "waiting": 1, "held": 1, "idle": 2}


@dataclass(slots=True)
class Row:
    """tokens: of the context, prompt and generated. own: of these, KV on the device that no unit names. host: units on
    the host that follow those on the device.
    """

    program: int
    state: str  # running, waiting, held or idle
    tokens: int
    own: int = 0
    host: int = 0
    id: int | None = None  # of the job; None for an idle context
    client: str = ""
    name: str = ""  # of the program
    held_s: float = 0.0
    why: str = ""  # it is held back, as its policy says
    segments: list[tuple[int, int, str]] = field(default_factory=list)  # (number of the run, tokens, its state)


class Contexts(Observer):
    """Counts from when it was attached. asked, found: tokens of prompts that began, and of these what was there."""

    def __init__(self) -> None:
        self.asked = self.found = self.evicted = self.again = 0
        self.gone: OrderedDict[int, None] = OrderedDict()  # ids of evicted units
        self.numbers: OrderedDict[str, int] = OrderedDict()  # program -> its number on the page
        self.counted = 0
        self._began: dict[Job, tuple[int, int]] = {}  # by the plan that was told last: asked and found of each

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: observer.Run, now: int) -> None:
        self.run = run

    def planned(self, plan: Plan, now: int) -> None:
        sharing = self.run.scheduler.sharing
        if sharing is None:
            return
        for ids, start, end in plan.evict:
            self.evicted += (end - start) * sharing.unit
            self.gone.update(dict.fromkeys(ids[start:end]))
        while len(self.gone) > MOST_GONE:
            self.gone.popitem(last=False)
        self._began = {}
        for job in plan.joined:
            if job.place is Place.NOWHERE:
                found = plan.found.get(job, 0)
                self._began[job] = job.prompt, min(found, job.prompt)
                self._again(job.ids[found // sharing.unit :], sharing.unit)
        self._add(1)

    def amended(self, plan: Plan, now: int) -> None:
        self._add(-1)
        self._began = {
            job: (asked, min(plan.found.get(job, 0), asked))
            for job, (asked, _) in self._began.items()
            if job in plan.joined
        }
        self._add(1)

    def _add(self, sign: int) -> None:
        for asked, found in self._began.values():
            self.asked += sign * asked
            self.found += sign * found

    def _again(self, ids: Ids, unit: int) -> None:
        for id in ids if self.gone else ():
            if id in self.gone:
                del self.gone[id]
                self.again += unit

    # -- what is shown ---------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """On the driver's thread, between two iterations. Those that begin alike are neighbours."""
        scheduler = self.run.scheduler
        waiting = (job for job in scheduler.live if not job.running and not job.held_back)
        jobs = islice(chain(scheduler.running, scheduler.holding.jobs, waiting), MOST_ROWS)
        found = [(row := self._row(job), self._path(row, job.ids)) for job in jobs]
        programs = scheduler.programs
        living = {job.program for job in scheduler.live}
        for program in islice(reversed(programs.last), 4 * MOST_ROWS):
            for ids, tokens in programs.left(program) if program not in living else ():
                row = Row(self._number(program), "idle", tokens, name=program)
                path = self._path(row, ids)
                if (path or row.host) and len(found) < MOST_ROWS:
                    found.append((row, path))
        _divide(found)
        return sorted(
            [row for row, _ in found], key=lambda row: ([number for number, _, _ in row.segments], ORDER[row.state])
        )

    def _row(self, job: Job) -> Row:
        scheduler = self.run.scheduler
        state = "running" if job.running else "held" if job.held_back else "waiting"
        own = 0
        if job.place in (Place.DEVICE, Place.LEAVING):
            there = job.prompt + job.generated - 1 if job.decoding else job.prefilled
            own = max(0, there - job.shared * (scheduler.sharing.unit if scheduler.sharing else 0))
        why = ""
        if job.held_back:
            with suppress(PolicyError):
                why = said(scheduler.policy, job)
        return Row(
            self._number(job.program), state, job.prompt + job.generated, own, 0, job.id, job.client, job.program,
            job.held / 1e9, why,
        )  # fmt: skip

    def _path(self, row: Row, ids: Ids) -> list[tuple[Run, int]]:
        """The runs along its path, and how many tokens of each are on it; fills row.host."""
        sharing = self.run.scheduler.sharing
        if sharing is None:
            return []
        path, at = sharing.tree.walk(ids, len(ids))
        if sharing.tier is not None:
            row.host = max(0, sharing.tier.tree.walk(ids, len(ids))[1] - at) * sharing.unit
        return [(run, (min(run.end, at) - run.start) * sharing.unit) for run in path]

    def _number(self, program: str) -> int:
        """0 for no program."""
        if not program:
            return 0
        number = self.numbers.get(program)
        if number is None:
            self.counted += 1
            number = self.numbers[program] = self.counted
            if len(self.numbers) > MOST_NUMBERS:
                self.numbers.popitem(last=False)
        else:
            self.numbers.move_to_end(program)
        return number


def _divide(found: list[tuple[Row, list[tuple[Run, int]]]]) -> None:
    """Fills the segments of these rows. A run that several paths follow is divided where one of them leaves it."""
    ends: dict[Run, set[int]] = {}
    for _, path in found:
        for run, tokens in path:
            ends.setdefault(run, set()).add(tokens)
    numbers: dict[tuple[Run, int], int] = {}
    for row, path in found:
        for run, tokens in path:
            state = "running" if run.runners else "waiting" if run.holders else "idle"
            start = 0
            for end in sorted(ends[run]):
                if end <= tokens:
                    row.segments.append((numbers.setdefault((run, start), len(numbers)), end - start, state))
                    start = end
