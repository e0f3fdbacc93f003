"""Schedule: what happened when to every job, compactly, for pictures of a run and for stepping through it.

A row an event, in the order in which they became known, of seven whole numbers:

kind     see Kind
at       ns of the run; of an arrival when the request came, of a copy when it began
job      its id; -1 where it is nobody's
value    arrive: tokens of its prompt; join: its slot; prefilled, leave, end: tokens that it has generated; copy:
         blocks; resized: slots
more     join: tokens to prefill, 0 where its KV is on the device, -1 where the step waits for it to come from the
         host; leave: why, as a text; copy: ns that it takes; arrive: its client, as a text
level    the queue level that the policy's explain() begins with, as in "Q3, 4 ms left", -1 without one; of a copy 1 out
         of the device and 0 into it
text     what the policy says of the job; end: how it ended; refused: why; a place in `texts`, whose first is empty

Rows and bytes are bounded: past either the rest of the run is not looked at, and `cut` says from when.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, NamedTuple

from fastserve.observers.reason import why_left
from fastserve.sched.job import HOST, NOWHERE, Job, Place
from fastserve.sched.observer import Observer, Run, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer

MOST = 120_000  # rows: a browser draws them without a pause
MOST_BYTES = 2_000_000  # of texts
LONGEST = 200  # characters of a text
LOST = "the body could not keep its KV"
NOT_STARTED = "it did not join after all: the body could not start it, and is asked again"
FAILED = "the step failed, and all KV is forgotten"


class Kind(IntEnum):
    """What has happened. `step_failed` and `resized` are nobody's."""

    arrive = 0
    refused = 1
    join = 2
    prefilled = 3  # its cache is complete: it has a token
    level = 4  # its policy has moved it
    leave = 5  # it has lost its place
    hold = 6
    release = 7
    copy = 8
    drop = 9  # its KV is forgotten
    end = 10
    step_failed = 11
    resized = 12


class Event(NamedTuple):
    kind: Kind
    at: int
    job: int
    value: int
    more: int
    level: int
    text: int


class Schedule(Observer):
    """most, most_bytes: rows, and bytes of texts, at which it stops looking."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.events: list[Event] = []
        self.texts: dict[str, int] = {"": 0}  # each once -> its place
        self.slots = 0
        self.policy = ""
        self.began_at = 0  # ns
        self.ended_at: int | None = None  # ns
        self.cut: int | None = None  # ns: nothing after it was looked at
        self._most = most
        self._room = most_bytes
        self._levels: dict[Job, int] = {}  # of live jobs that have one
        self._held: dict[Job, None] = {}
        self._silent: list[Job] = []  # whose prefill is complete and has not given a token yet

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.scheduler = run.scheduler
        self.slots = run.seats.slots
        self.policy = type(run.scheduler.policy).__name__
        self.began_at = now
        for job in run.scheduler.live:
            self._arrive(job)
        for job, slot in run.seats.of.items():
            self._note(Kind.join, now, job, slot)

    def submitted(self, job: Job, now: int) -> None:
        if self.cut is None:
            self._arrive(job)
            self._holds(now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        if self.cut is None:
            self._note(Kind.refused, job.arrival, job, job.prompt, word=why)

    def cancelled(self, job: Job, now: int) -> None:
        if self.cut is None:
            self._end(job, now)
            self._holds(now)

    def program_ended(self, program: str, now: int) -> None:
        self._holds(now)

    def ticked(self, now: int) -> None:
        self._holds(now)

    def idle(self, now: int) -> None:
        self._holds(now)

    def planned(self, plan: Plan, now: int) -> None:
        if self.cut is not None:
            return
        self._holds(now)
        if plan.left:
            why = self._text(why_left(plan, self.scheduler))
            for job in plan.left:
                self._note(Kind.leave, plan.now, job, job.generated, why)
        for job in plan.drop:
            self._note(Kind.drop, plan.now, job, word="")
        for job in plan.joined:
            self._note(Kind.join, plan.now, job, self.run.seats.of[job], _owed(job, plan))

    def amended(self, plan: Plan, now: int) -> None:
        if self.cut is not None or plan.amended is None:
            return
        for job in self.run.seats.without(plan):
            self._note(Kind.leave, plan.now, job, job.generated, self._text(LOST if job.running else NOT_STARTED))
        for job in plan.amended.lost:
            self._note(Kind.drop, plan.now, job, word="")

    def copied(self, transfer: Transfer, now: int) -> None:
        if self.cut is None:
            copy, ns = transfer.copy, transfer.end - transfer.start
            self._add(Kind.copy, transfer.start, copy.job.id, copy.blocks, ns, int(copy.out), "")

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        if self.cut is not None:
            return
        if plan.prefill or self._silent:
            self._prefilled(plan, outcome, now)
        for job in finished:
            self._end(job, now)
        if self._levels:
            self._moved(now)
        self._holds(now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        if self.cut is not None:
            return
        self._add(Kind.step_failed, now, -1, 0, 0, -1, FAILED)
        why = self._text(FAILED)
        for job in dict.fromkeys([*lost, *self.run.seats.of]):
            if not job.finish:
                self._note(Kind.leave, now, job, job.generated, why)
        self._silent.clear()

    def resized(self, slots: int, now: int) -> None:
        if self.cut is None:
            self._add(Kind.resized, now, -1, slots, 0, -1, "")

    def ended(self, now: int) -> None:
        self.ended_at = now
        self._levels.clear()
        self._held.clear()
        self._silent.clear()

    # -- what it makes of it ---------------------------------------------------------------------------------------

    def _arrive(self, job: Job) -> None:
        self._note(Kind.arrive, job.arrival, job, job.prompt, self._text(job.client))

    def _prefilled(self, plan: Plan, outcome: Outcome, now: int) -> None:
        """Whose cache is complete now, once it has given a token."""
        done = [job for job, _ in plan.prefill if job.rolling or job.finish]
        if outcome.extra:
            mute = {job for job, delta in outcome.extra if delta < 0}
            self._silent += [job for job in done if job in mute]
            done = [job for job in done if job not in mute]
        if self._silent:
            done += [job for job in self._silent if job.generated and job not in done]
            self._silent = [job for job in self._silent if not (job.generated or job.finish)]
        for job in done:
            self._add(Kind.prefilled, now, job.id, job.generated, 0, self._levels.get(job, -1), "")

    def _moved(self, now: int) -> None:
        """Who has another level now; whose stored rank may have changed is there until the next plan."""
        levels = self._levels
        for job in list(self.scheduler.ranking.dirty):
            if job in levels:
                word = said(self.scheduler.policy, job)
                new = level(word)
                if new is not None and new != levels[job]:
                    levels[job] = new
                    self._add(Kind.level, now, job.id, job.generated, 0, new, word)

    def _holds(self, now: int) -> None:
        """Who is held back now and was not, and who was and is not."""
        holding = self.scheduler.holding.jobs
        if self.cut is not None or not (holding or self._held):
            return
        for job in [job for job in self._held if job not in holding]:
            del self._held[job]
            if not job.finish:
                self._note(Kind.release, now, job)
        for job in holding:
            if job not in self._held:
                self._held[job] = None
                self._note(Kind.hold, now, job)

    def _end(self, job: Job, now: int) -> None:
        self._add(Kind.end, now, job.id, job.generated, 0, self._levels.pop(job, -1), str(job.finish))
        self._held.pop(job, None)

    def _note(self, kind: Kind, at: int, job: Job, value: int = 0, more: int = 0, word: str | None = None) -> None:
        """word: None asks the policy, and keeps the job's level in step."""
        if word is None:
            word = said(self.scheduler.policy, job)
            found = level(word)
            if found is not None:
                self._levels[job] = found
        self._add(kind, at, job.id, value, more, self._levels.get(job, -1), word)

    def _add(self, kind: Kind, at: int, job: int, value: int, more: int, at_level: int, word: str) -> None:
        if self.cut is not None:
            return
        self.events.append(Event(kind, at, job, value, more, at_level, self._text(word)))
        if len(self.events) >= self._most or self._room <= 0:
            self.cut = max(at, self.run.scheduler.meter.now)
            self._levels.clear()
            self._held.clear()
            self._silent.clear()

    def _text(self, word: str) -> int:
        word = word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"
        place = self.texts.get(word)
        if place is None:
            place = self.texts[word] = len(self.texts)
            self._room -= len(word.encode("utf-8", "replace"))
        return place

    # -- what is shown ---------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Plain values for JSON: the rows by time, a list a column. All times in whole microseconds of the run; `at` is
        the time since the row before.
        """
        rows = sorted(self.events, key=lambda event: event.at)
        columns: dict[str, list[int]] = {name: [row[place] for row in rows] for place, name in enumerate(Event._fields)}
        times = [0, *map(self._us, columns["at"])]
        columns["at"] = [after - before for before, after in pairwise(times)]
        columns["more"] = [round(row.more / 1000) if row.kind is Kind.copy else row.more for row in rows]
        return {
            "policy": self.policy,
            "slots": self.slots,
            "ended": None if self.ended_at is None else self._us(self.ended_at),
            "cut": None if self.cut is None else self._us(self.cut),
            "kinds": [kind.name for kind in Kind],
            "texts": list(self.texts),
            "columns": columns,
        }

    def _us(self, ns: int) -> int:
        return round((ns - self.began_at) / 1000)


def _owed(job: Job, plan: Plan) -> int:
    """Tokens that it has to prefill; see `more` of a join."""
    if job.place is NOWHERE:
        return job.prompt + job.generated - plan.first(job)
    return -1 if job.place in (HOST, Place.COMING) else 0
