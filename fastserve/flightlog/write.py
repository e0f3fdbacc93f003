"""The flight log: everything that one Scheduler was told and what it answered, as JSON lines.

From it every plan can be made again (`python -m fastserve.flightlog.replay LOG`), so a live run is a regression test
and a bug report. It holds settings, lengths, ids and times, never a prompt or a token. Times are ns.

The first line is the header: version, policy (a name or module:Class), knobs, hardware (as load_hardware() reads it),
longest and context (tokens, see MachineTimes), and settings, the Scheduler's keywords. Each further line is one event
with its time `now`, in the order in which the Scheduler was told: submit (the facts of the job), cancel, end_program,
plan, amend, commit, tick (nothing ran, and alarms of jobs that are held back have rung), forget_all, resize,
resize_pool (blocks), correct (job `id` has so many `tokens` more, or fewer), reset_prefix_cache (what is idle there is
forgotten). Whom a policy holds back is its own doing, and is not told.
A plan is null where jobs wait and nothing can be done. Copies are [number, job, blocks, "out" or "in"], numbered as
they appear. A commit has `extra`, [job, delta] for jobs that got 1 + delta tokens, where the iteration was uneven,
`drafts`, [job, drafted, accepted] for jobs that verified guesses in it, which no plan depends on, and `calls`,
[job, tool] for jobs that have ended with a call of a tool. An amend stands between a plan and its commit, where the
body has done otherwise: with what (prefill, [job, tokens], null where as planned; absent and lost, jobs; found, [job,
tokens]), and the whole plan as it holds from then on. A submit has `generated`, where the job comes with output tokens.

Where prefixes are cached, a submit has `ids`, of the units that its prompt fills; a plan `found`, [job, tokens], and
`evict`, the ids of the units that go, in this order; a commit `answers`, [job, ids] of jobs that have ended. Where the
host remembers units, too, a plan may have `store`, copies of units that go there, and `forget`, those that it forgets,
as `evict`; a copy of units ends with the first one on the path of its job and the one behind the last.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final, TextIO

from fastserve.formats import VERSIONS
from fastserve.sched.job import NEVER, Copy, Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.units import Range

log = logging.getLogger("fastserve")

FACTS: Final = (
    "id", "arrival", "prompt", "limit", "client", "program", "priority", "deadline", "guess", "ids", "tool", "final",
)  # fmt: skip
"""What of a Job is known when it is submitted: its constructor's arguments."""


class Copies:
    """Numbers for copies, which are otherwise told apart by identity, in the order in which plans name them."""

    def __init__(self) -> None:
        self._number: dict[Copy, int] = {}
        self._issued = 0

    def number(self, copy: Copy) -> int:
        if copy not in self._number:
            self._number[copy] = self._issued
            self._issued += 1
        return self._number[copy]

    def landed(self, copies: Iterable[Copy]) -> list[int]:
        """Their numbers, which nobody will ask for again."""
        return [self._number.pop(copy) for copy in copies]

    def clear(self) -> None:
        self._number.clear()

    def by_number(self) -> dict[int, Copy]:
        return {number: copy for copy, number in self._number.items()}


def plan_data(plan: Plan | None, copies: Copies) -> dict[str, Any] | None:
    """A plan as plain data, before it is committed. Equal plans give equal data."""
    if plan is None:
        return None
    moves: dict[str, Sequence[Copy]] = {
        "park": plan.park,
        "load": plan.load,
        "clear": plan.clear,
        "prefetch": plan.prefetch,
    }
    shared: dict[str, Any] = {}
    if plan.shares is not None:
        shared["found"] = [[job.id, tokens] for job, tokens in plan.found.items()]
        shared["evict"] = _units(plan.evict)
        if plan.store:
            moves["store"] = plan.store
        if plan.forget:
            shared["forget"] = _units(plan.forget)
    return {
        "gone": [job.id for job in plan.gone],
        "left": [job.id for job in plan.left],
        "joined": [job.id for job in plan.joined],
        "prefill": [[job.id, tokens] for job, tokens in plan.prefill],
        "drop": [job.id for job in plan.drop],
        **{
            name: [
                [copies.number(copy), copy.job.id, copy.blocks, "out" if copy.out else "in", *(copy.units or ())[1:]]
                for copy in found
            ]
            for name, found in moves.items()
        },
        "batch": plan.batch,
        "context": plan.context,
        "iterations": plan.iterations,
        "service": plan.service,
        "until": plan.until,
        "hold": plan.hold,
        **shared,
    }


def _units(gone: Sequence[Range]) -> list[int]:
    return [id for ids, start, end in gone for id in reversed(ids[start:end])]


class FlightLog(Observer):
    """Writes one, in any driver. Each line is whole on disk before the next event: a crash leaves what led to it."""

    def __init__(self, path: str | PathLike[str], header: dict[str, Any]) -> None:
        """OSError where the file cannot be written. If that fails later, the log ends there and says so."""
        self._file: TextIO | None = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())
        self._copies = Copies()
        self._file.write(_line({"flight_log": VERSIONS["flight_log"], **header}))

    def submitted(self, job: Job, now: int) -> None:
        facts = {name: getattr(job, name) for name in FACTS}
        for name in ("limit", "deadline"):
            if facts[name] == NEVER:
                del facts[name]
        facts["ids"] = list(job.ids)
        if job.generated:
            facts["generated"] = job.generated
        for name in ("ids", "tool", "final"):
            if not facts[name]:
                del facts[name]
        self._tell({"event": "submit", "now": now, **facts})

    def rejected(self, job: Job, now: int, why: str) -> None:
        self.submitted(job, now)

    def cancelled(self, job: Job, now: int) -> None:
        self._tell({"event": "cancel", "now": now, "id": job.id})

    def program_ended(self, program: str, now: int) -> None:
        self._tell({"event": "end_program", "now": now, "program": program})

    def ticked(self, now: int) -> None:
        self._tell({"event": "tick", "now": now})

    def planned(self, plan: Plan, now: int) -> None:
        self._tell({"event": "plan", "now": plan.now, "plan": plan_data(plan, self._copies)})

    def amended(self, plan: Plan, now: int) -> None:
        amended = plan.amended
        assert amended is not None
        self._tell({
            "event": "amend", "now": now,
            "prefill": None if amended.prefill is None else [[job.id, tokens] for job, tokens in amended.prefill],
            "absent": [job.id for job in amended.absent], "lost": [job.id for job in amended.lost],
            "found": [[job.id, tokens] for job, tokens in amended.told.items()],
            "plan": plan_data(plan, self._copies),
        })  # fmt: skip

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        self._tell({"event": "correct", "now": now, "id": job.id, "tokens": tokens})

    def idle(self, now: int) -> None:
        self._tell({"event": "plan", "now": now, "plan": None})

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        extra = [[job.id, delta] for job, delta in outcome.extra]
        answers = [[job.id, list(ids)] for job, ids in (outcome.answers or {}).items() if ids]
        calls = [[job.id, tool] for job, tool in (outcome.calls or {}).items() if tool]
        drafts = [[job.id, drafted, accepted] for job, drafted, accepted in outcome.drafts]
        self._tell({
            "event": "commit", "now": now, "iterations": outcome.iterations, "service": outcome.service,
            "stall": outcome.stall, "ended": [job.id for job in outcome.ended],
            "copied": self._copies.landed(outcome.copied), "first": outcome.first, "gap": outcome.gap,
            **({"extra": extra} if extra else {}), **({"answers": answers} if answers else {}),
            **({"calls": calls} if calls else {}), **({"drafts": drafts} if drafts else {}),
        })  # fmt: skip

    def failed(self, lost: Sequence[Job], now: int) -> None:
        self._copies.clear()
        self._tell({"event": "forget_all", "now": now})

    def resized(self, slots: int, now: int) -> None:
        self._tell({"event": "resize", "now": now, "slots": slots})

    def pool_resized(self, blocks: int, now: int) -> None:
        self._tell({"event": "resize_pool", "now": now, "blocks": blocks})

    def cache_reset(self, now: int) -> None:
        self._tell({"event": "reset_prefix_cache", "now": now})

    def ended(self, now: int) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _tell(self, data: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(_line(data))
        except OSError as error:  # a full disk must not end the service
            log.error("the flight log %s ends here, the engine goes on: %s", self._file.name, error)
            with suppress(OSError):
                self.ended(0)


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"
