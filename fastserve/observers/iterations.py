"""IterationLog: a row per stretch of iterations. From it every gap between tokens can be told (inter_token.py).

Columns, as written to CSV:

start_s          s: when the stretch began, at a plan boundary (nine decimals: whole ns)
iterations       how many; those after the first repeat its decode step, and a lone prefill goes on in equal chunks
batch, context   of the first iteration: jobs that decode, and the tokens that they attend to
prefill_tokens   tokens of prefills in the first iteration
prefill_cached   tokens that the first of these prefills had behind it
service_s        s of iteration time
stall_s          s that the step waited for copies, before its first iteration
joined           ids of the jobs that got a place and have a prefill to do (ids are separated by spaces)
resumed          ids of those that got a place with their KV kept: they decode at once
left             ids of those that lost their place before the stretch, by a step that failed too
prefilled        ids of those whose prefill was complete at its end: that gave them a token
ended            ids of those that were finished at its end
extra            of an uneven iteration: ID:N for who got N tokens more than one; -1 is none
waiting          live jobs without a place during the stretch
kv_used, kv_parked, kv_hosted   blocks at its end: of running jobs, those of their next tokens included, so that it
                 exceeds the pool where somebody must leave next; of others on the device; on the host
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastserve.observers.lines import Lines, Out
from fastserve.sched.job import NOWHERE, Job
from fastserve.sched.observer import Observer, Run
from fastserve.sched.plan import Outcome, Plan


class Stretch(NamedTuple):
    """One row; times in ns, jobs by id."""

    start: int
    iterations: int
    batch: int
    context: int
    prefill_tokens: int
    prefill_cached: int
    service: int
    stall: int
    joined: tuple[int, ...]
    resumed: tuple[int, ...]
    left: tuple[int, ...]
    prefilled: tuple[int, ...]
    ended: tuple[int, ...]
    extra: tuple[tuple[int, int], ...]
    waiting: int
    kv_used: int
    kv_parked: int
    kv_hosted: int

    @property
    def end(self) -> int:
        return self.start + self.stall + self.service


COLUMNS = tuple([f"{name}_s" if name in ("start", "service", "stall") else name for name in Stretch._fields])


class IterationLog(Observer):
    """out: a path, to be written as the run goes on and closed at its end, or an open text stream; None writes nothing.

    keep: keeps the rows in `rows` too, for gaps(). Raises OutputError for a path that cannot be written.
    """

    def __init__(self, out: Out | None = None, *, keep: bool = False) -> None:
        self.rows: list[Stretch] = []
        self._keep = keep
        self._lines = None if out is None else Lines(out)
        if self._lines is not None:
            self._lines.write(",".join(COLUMNS) + "\n")
        self._members: set[Job] = set()
        self._gone: list[Job] = []  # who had a place before a step that failed, or would have had one by it
        self._resumed: tuple[int, ...] = ()
        self._joined: tuple[int, ...] = ()
        self._left: tuple[int, ...] = ()
        self._cached = 0
        self._waiting = 0

    def began(self, run: Run, now: int) -> None:
        self.scheduler = run.scheduler
        self._members = set(run.scheduler.running)

    def planned(self, plan: Plan, now: int) -> None:
        members = self._members
        left = [*self._gone, *[job for job in plan.gone if job in members], *plan.left]
        self._gone = []
        members.difference_update(left)
        members.update(plan.joined)
        self._left = _ids(left)
        self._settle(plan)

    def amended(self, plan: Plan, now: int) -> None:
        out = self._members.difference(plan.members)
        self._left += _ids([job for job in plan.left if job in out])
        self._members -= out
        self._settle(plan)

    def _settle(self, plan: Plan) -> None:
        """What can be told only before the commit."""
        self._joined = _ids([job for job in plan.joined if job.place is NOWHERE])
        self._resumed = _ids([job for job in plan.joined if job.place is not NOWHERE])
        self._cached = plan.first(plan.prefill[0][0]) if plan.prefill else 0
        self._waiting = len(self.scheduler.live) - len(self._members)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        self._gone = list(lost)
        self._members.clear()

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self._members.difference_update(finished)
        ledger = self.scheduler.ledger
        row = Stretch(
            start=plan.now,
            iterations=outcome.iterations,
            batch=plan.batch,
            context=plan.context,
            prefill_tokens=sum([tokens for _, tokens in plan.prefill]),
            prefill_cached=self._cached,
            service=outcome.service,
            stall=outcome.stall,
            joined=self._joined,
            resumed=self._resumed,
            left=self._left,
            prefilled=_ids([job for job, _ in plan.prefill if job.rolling or job.finish]),
            ended=_ids(finished),
            extra=tuple([(job.id, delta) for job, delta in outcome.extra]),
            waiting=self._waiting,
            kv_used=ledger.used,
            kv_parked=ledger.cold,
            kv_hosted=ledger.hosted,
        )
        if self._keep:
            self.rows.append(row)
        if self._lines is not None:
            self._lines.write(",".join([_cell(name, value) for name, value in zip(COLUMNS, row, strict=True)]) + "\n")

    def ended(self, now: int) -> None:
        if self._lines is not None:
            self._lines.close()


def _ids(jobs: Sequence[Job]) -> tuple[int, ...]:
    return tuple([job.id for job in jobs])


def _cell(column: str, value: Any) -> str:
    if column == "extra":
        return " ".join([f"{id}:{delta}" for id, delta in value])
    if isinstance(value, tuple):
        return " ".join([str(id) for id in value])
    return f"{value // 10**9}.{value % 10**9:09d}" if column.endswith("_s") else str(value)
