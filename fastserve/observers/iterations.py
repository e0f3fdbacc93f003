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
left             ids of those that lost their place before the stretch
prefilled        ids of those whose prefill was complete at its end: that gave them a token
ended            ids of those that were finished at its end
waiting          live jobs without a place during the stretch
kv_used, kv_parked, kv_hosted   blocks at its end: of running jobs, of others on the device, on the host
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastserve.atomic_files import atomically
from fastserve.sched.job import NOWHERE, Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.scheduler import Scheduler


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
    waiting: int
    kv_used: int
    kv_parked: int
    kv_hosted: int

    @property
    def end(self) -> int:
        return self.start + self.stall + self.service


COLUMNS = tuple([f"{name}_s" if name in ("start", "service", "stall") else name for name in Stretch._fields])


class IterationLog(Observer):
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.rows: list[Stretch] = []
        self._members: set[Job] = set()
        self._resumed: tuple[int, ...] = ()
        self._joined: tuple[int, ...] = ()
        self._left: tuple[int, ...] = ()
        self._cached = 0
        self._waiting = 0

    def planned(self, plan: Plan) -> None:
        members = self._members
        left = [*[job for job in plan.gone if job in members], *plan.left]
        members.difference_update(left)
        members.update(plan.joined)
        self._left = _ids(left)
        self._joined = _ids([job for job in plan.joined if job.place is NOWHERE])
        self._resumed = _ids([job for job in plan.joined if job.place is not NOWHERE])
        self._cached = plan.prefill[0][0].prefilled if plan.prefill else 0
        self._waiting = len(self.scheduler.live) - len(members)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self._members.difference_update(finished)
        ledger = self.scheduler.ledger
        self.rows.append(
            Stretch(
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
                waiting=self._waiting,
                kv_used=ledger.used,
                kv_parked=ledger.cold,
                kv_hosted=ledger.hosted,
            )
        )

    def write(self, path: Path) -> None:
        """As CSV. Raises OutputError where the file cannot be written; it appears whole or not at all."""
        with atomically(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in self.rows:
                writer.writerow([_cell(column, value) for column, value in zip(COLUMNS, row, strict=True)])


def _ids(jobs: Sequence[Job]) -> tuple[int, ...]:
    return tuple([job.id for job in jobs])


def _cell(column: str, value: Any) -> int | str:
    if isinstance(value, tuple):
        return " ".join([str(id) for id in value])
    return f"{value // 10**9}.{value % 10**9:09d}" if column.endswith("_s") else int(value)
