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


class Ended:
    """A job of a program that has ended, the last one. now: ns. before: another one that ended at that very moment."""

    __slots__ = ("answer", "before", "ids", "now", "tokens")

    def __init__(self, now: int, ids: Ids, answer: Ids, tokens: int, before: Ended | None) -> None:
        self.now = now
        self.ids = ids
        self.answer = answer  # ids of the units that prompt and answer fill beyond those of the prompt
        self.tokens = tokens
        self.before = before


class Programs:
    """unit: tokens of a unit; 0: contents are not known. A job without a program is a program of its own."""

    __slots__ = ("last", "unit")

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.last: dict[str, Ended] = {}

    def went(self, job: Job, now: int, outcome: Outcome | None) -> None:
        """A job with a program has ended. outcome: what may name its answer's units."""
        last = self.last
        before = last.pop(job.program, None)
        if before is not None and before.now != now:
            before = None
        answer: Ids = ()
        if outcome is not None and outcome.answers:
            answer = outcome.answers.get(job, ())
        last[job.program] = Ended(now, job.ids, answer, job.prompt + job.tokens_base, before)
        if len(last) > REMEMBERED:
            del last[next(iter(last))]

    def end(self, program: str) -> None:
        """Nothing more will come of it."""
        self.last.pop(program, None)

    def left(self, program: str) -> list[Context]:
        """Of its jobs that ended last: what its context is while none lives."""
        found: list[Context] = []
        ended = self.last.get(program)
        while ended is not None:
            found.append((joined(ended.ids, ended.answer), ended.tokens))
            ended = ended.before
        return found

    def sizes(self, programs: Iterable[str | Job], live: Iterable[Job]) -> list[int]:
        """Tokens that each adds to those named before it."""
        programs = list(programs)
        jobs: dict[str, list[Job]] = {one.program if isinstance(one, Job) else one: [] for one in programs}
        jobs.pop("", None)
        for job in live:  # many more may wait than are asked of
            if job.program in jobs:
                jobs[job.program].append(job)
        seen: set[str | Job] = set()
        tree = Tree(self.unit)
        found: list[int] = []
        for named in programs:
            name: str | Job = named.program or named if isinstance(named, Job) else named
            size = 0
            if name and name not in seen:
                seen.add(name)
                its = [name] if isinstance(name, Job) else jobs.get(name, ())
                contexts = [(job.ids, job.prompt + job.generated) for job in its]
                if not contexts and isinstance(name, str):
                    contexts = self.left(name)
                if self.unit:
                    size = sum([_added(tree, ids, tokens) for ids, tokens in contexts])
                else:
                    size = max([tokens for _, tokens in contexts], default=0)
            found.append(size)
        return found


def _added(tree: Tree, ids: Ids, tokens: int) -> int:
    """Tokens of this context that none in the tree has; it is in the tree from here on."""
    units = tree.whole(ids, tokens)
    path, at = tree.walk(ids, units)
    if at < units:
        if path and at < path[-1].end:
            tree.cut(ids, path[-1].start, at)
        tree.first[ids[at]] = Run(ids, at, units, None, 0, 0)
    return tokens - at * tree.unit
