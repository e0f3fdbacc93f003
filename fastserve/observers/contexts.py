"""Contexts: whose prompts begin alike on the device, what of them is idle, and what was evicted and computed again.

A row is a context: that of a live job, or the last one of a program that has none. Its segments are runs of units in
order from its first token; a run that several contexts begin with has one number in all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve.observers.held import held_ns, is_held
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job, Place
from fastserve.sched.observer import Observer, Run, said
from fastserve.sched.path import joined
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.units import Ids, Tree

MOST_PROGRAMS = 256
"""Whose last contexts are remembered, the latest."""

MOST_GONE = 1 << 17
"""Evicted units that are remembered, the latest: one that is computed again after so many others counts as new."""

MOST_ROWS = 32
"""Contexts that are shown: those that run, then those that wait, then the idle ones."""

ORDER = {"running": 0, "waiting": 1, "held": 1, "idle": 2}


@dataclass(slots=True)
class Row:
    """tokens: of the context, prompt and generated. own: of these, KV on the device that no unit names. held: s."""

    program: int
    state: str  # running, waiting, held or idle
    tokens: int
    own: int = 0
    id: int | None = None  # of the job; None for an idle context
    client: str = ""
    name: str = ""  # of the program
    held: float = 0.0
    why: str = ""  # it is held back, as its policy says
    segments: list[tuple[int, int, str]] = field(default_factory=list)  # (number of the run, tokens, its state)


class Left:
    """The last context of a program without live jobs."""

    __slots__ = ("client", "ids", "tokens")

    def __init__(self, client: str, ids: Ids, tokens: int) -> None:
        self.client = client
        self.ids = ids
        self.tokens = tokens


class Contexts(Observer):
    """Counts from when it was attached. asked, found: tokens of prompts that began, and of these what was there."""

    def __init__(self) -> None:
        self.asked = self.found = self.evicted = self.again = 0
        self.gone: OrderedDict[int, None] = OrderedDict()  # ids of evicted units
        self.left: OrderedDict[str, Left] = OrderedDict()  # by program
        self.numbers: OrderedDict[str, int] = OrderedDict()  # program -> its number on the page
        self.counted = 0

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
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
        for job in plan.joined:
            if job.place is Place.NOWHERE:
                found = plan.found.get(job, 0)
                self.asked += job.prompt
                self.found += min(found, job.prompt)
                self._again(job.ids[found // sharing.unit :], sharing.unit)

    def _again(self, ids: Ids, unit: int) -> None:
        for id in ids if self.gone else ():
            if id in self.gone:
                del self.gone[id]
                self.again += unit

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        for job in finished:
            if job.program:
                answer = outcome.answers.get(job, ()) if outcome.answers else ()
                ids = joined(job.ids, answer) if answer else job.ids
                self.left[job.program] = Left(job.client, ids, job.prompt + job.generated)
                self.left.move_to_end(job.program)
        while len(self.left) > MOST_PROGRAMS:
            self.left.popitem(last=False)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        self.left.clear()  # all KV is forgotten

    # -- what is shown ---------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """On the driver's thread, between two iterations. Those that begin alike are neighbours."""
        scheduler = self.run.scheduler
        live = sorted(scheduler.live, key=lambda job: not job.running)[:MOST_ROWS]
        found = [(self._row(job), job.ids) for job in live]
        busy = {job.program for job in scheduler.live}
        for program, left in reversed(self.left.items()):
            if len(found) >= MOST_ROWS:
                break
            if program not in busy:
                row = Row(self._number(program), "idle", left.tokens, client=left.client, name=program)
                found.append((row, left.ids))
        sharing = scheduler.sharing
        if sharing is not None:
            runs: dict[Any, int] = {}
            for row, ids in found:
                row.segments = _segments(sharing.tree, ids, runs)
        found = [(row, ids) for row, ids in found if row.state != "idle" or row.segments]
        found.sort(key=lambda pair: ([number for number, _, _ in pair[0].segments], ORDER[pair[0].state]))
        return [row for row, _ in found]

    def _row(self, job: Job) -> Row:
        policy = self.run.scheduler.policy
        state = "running" if job.running else "held" if is_held(job) else "waiting"
        own = 0
        if job.place in (Place.DEVICE, Place.LEAVING):
            shared = job.shared * (0 if self.run.scheduler.sharing is None else self.run.scheduler.sharing.unit)
            own = max(0, min(job.prefilled, job.prompt) + job.generated - shared)
        try:
            why = said(policy, job) if is_held(job) else ""
        except PolicyError:
            why = ""
        return Row(
            self._number(job.program), state, job.prompt + job.generated, own, job.id, job.client, job.program,
            held_ns(job) / 1e9, why,
        )  # fmt: skip

    def _number(self, program: str) -> int:
        """0 for no program."""
        if not program:
            return 0
        number = self.numbers.get(program)
        if number is None:
            self.counted += 1
            number = self.numbers[program] = self.counted
            if len(self.numbers) > 2 * MOST_PROGRAMS:
                self.numbers.popitem(last=False)
        else:
            self.numbers.move_to_end(program)
        return number


def _segments(tree: Tree, ids: Ids, runs: dict[Any, int]) -> list[tuple[int, int, str]]:
    """The runs along a path. runs: those that were met before -> their numbers."""
    path, at = tree.walk(ids, len(ids))
    found = []
    for run in path:
        end = min(run.end, at)
        state = "running" if run.runners else "waiting" if run.holders else "idle"
        found.append((runs.setdefault(run, len(runs)), (end - run.start) * tree.unit, state))
    return found
