"""Programs: how many tokens a program's context takes, shared prefixes charged once."""

from __future__ import annotations

from collections.abc import Iterable

from fastserve.sched.job import Job
from fastserve.sched.path import joined
from fastserve.sched.plan import Outcome
from fastserve.sched.units import Ids, Run, Tree

Context = tuple[Ids, int]  # the ids of its units, as far as they are known, and all its tokens

REMEMBERED = 10_000
"""Programs whose context is remembered though none of their jobs lives; the longest idle one is forgotten first."""


class Programs:
    """unit: tokens of a unit; 0: contents are not known. A job without a program is a program of its own."""

    __slots__ = ("last", "live", "unit")

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.live: dict[str, dict[Job, None]] = {}
        self.last: dict[str, tuple[int, list[Context]]] = {}  # ns, and who ended then: the last ones of the program

    def came(self, job: Job) -> None:
        """A job with a program is live."""
        self.live.setdefault(job.program, {})[job] = None

    def went(self, job: Job, now: int, outcome: Outcome | None) -> None:
        """A job with a program has ended. outcome: what may name its answer's units."""
        program = job.program
        jobs = self.live[program]
        del jobs[job]
        if not jobs:
            del self.live[program]
        ids = job.ids
        if outcome is not None and outcome.answers:
            ids = joined(ids, outcome.answers.get(job, ()))
        at, ended = self.last.pop(program, (now, []))
        if at != now:
            ended = []
        ended.append((ids, job.prompt + job.generated))
        self.last[program] = now, ended
        if len(self.last) > REMEMBERED:
            del self.last[next(iter(self.last))]

    def end(self, program: str) -> None:
        """Nothing more will come of it."""
        self.last.pop(program, None)

    def sizes(self, programs: Iterable[str | Job]) -> list[int]:
        """Tokens that each adds to those named before it."""
        seen: set[str | Job] = set()
        tree = Tree(self.unit)
        found: list[int] = []
        for named in programs:
            name: str | Job = named.program or named if isinstance(named, Job) else named
            size = 0
            if name not in seen:
                seen.add(name)
                contexts = self._contexts(name)
                if self.unit:
                    size = sum([_added(tree, ids, tokens) for ids, tokens in contexts])
                else:
                    size = max([tokens for _, tokens in contexts], default=0)
            found.append(size)
        return found

    def _contexts(self, name: str | Job) -> list[Context]:
        jobs: Iterable[Job] = ()
        if isinstance(name, Job):
            jobs = (name,)
        elif name in self.live:
            jobs = self.live[name]
        elif name in self.last:
            return self.last[name][1]
        return [(job.ids, job.prompt + job.generated) for job in jobs]


def _added(tree: Tree, ids: Ids, tokens: int) -> int:
    """Tokens of this context that none in the tree has; it is in the tree from here on."""
    units = tree.whole(ids, tokens)
    path, at = tree.walk(ids, units)
    if at < units:
        if path and at < path[-1].end:
            tree.cut(ids, path[-1].start, at)
        tree.first[ids[at]] = Run(ids, at, units, None, 0, 0)
    return tokens - at * tree.unit
