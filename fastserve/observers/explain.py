"""Explanation: the life of one job, line by line: what happened to it, when, and how far it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastserve.observers.reason import why_left
from fastserve.sched.job import Copy, Job, Place
from fastserve.sched.observer import Observer, Run, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer

COMES_WITH = {
    Place.DEVICE: "its KV is still on the device",
    Place.LEAVING: "its KV is still whole on the device, while a copy of it goes out",
    Place.HOST: "its KV is on the host, and the step waits for it",
    Place.COMING: "its KV is on its way back, and the step waits for the rest",
}


FORGOTTEN = "its KV is forgotten, and will have to be computed again"


class Line(NamedTuple):
    """at: ns. age, served: ns so far; generated: tokens so far."""

    at: int
    age: int
    served: int
    generated: int
    what: str

    def document(self) -> dict[str, Any]:
        """In seconds, for JSON."""
        return {
            "at_s": self.at / 1e9,
            "age_s": self.age / 1e9,
            "served_s": self.served / 1e9,
            "generated": self.generated,
            "what": self.what,
        }


class Explanation(Observer):
    """Of the job with this id. Levels are told of policies whose explain() begins with one, as in "Q3, 4 ms left"."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.lines: list[Line] = []
        self.job: Job | None = None  # from its arrival until it ends
        self.chunks: list[int] = []  # tokens of the prefill under way
        self.began_at = 0  # ns: its present visit, or its present wait
        self.had = 0  # tokens when the visit began
        self.first = True  # it has yet to have a first token
        self.level: int | None = None
        self.held = False  # its policy holds it back
        self._before = (0, 0, 0, False)  # the last plan: began_at, waited, between and held
        self.moving: dict[Copy, Transfer] = {}
        self.waited = 0  # ns before the first visit, between visits, and still in the batch's stalls
        self.between = 0
        self.stalled = 0

    # -- what it is told -------------------------------------------------------------------------------------------

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.scheduler = run.scheduler
        for job in run.scheduler.live:
            if job.id == self.id:
                self._take_up(job, now)

    def submitted(self, job: Job, now: int) -> None:
        if job.id != self.id:
            self._holds(now)
            return
        word = self._take_up(job, job.arrival)
        running = len(self.scheduler.running)
        others = f"{running} others run, {len(self.scheduler.live) - running - 1} wait"
        self._note(job, job.arrival, f"arrived: prompt of {job.prompt:,} tokens; {word}; {others}")
        self.held = job.held_back  # the policy has said so, and why

    def rejected(self, job: Job, now: int, why: str) -> None:
        if job.id == self.id:
            self._note(job, job.arrival, f"arrived and was refused: {why}")

    def cancelled(self, job: Job, now: int) -> None:
        if job is self.job:
            self._end(job, now)
        self._holds(now)

    def program_ended(self, program: str, now: int) -> None:
        self._holds(now)

    def ticked(self, now: int) -> None:
        self._holds(now)

    def idle(self, now: int) -> None:
        self._holds(now)

    def planned(self, plan: Plan, now: int) -> None:
        job = self.job
        if job is None:
            return
        self._holds(plan.now)
        self._before = self.began_at, self.waited, self.between, self.held
        if job in plan.left:
            self._left(job, plan)
        if job in plan.joined:
            self._joined(job, plan)
        if job in plan.drop:
            self._note(job, plan.now, FORGOTTEN)
        for copy in plan.clear:
            if copy.job is job and not copy.out and not copy.orphan:
                self._note(job, plan.now, "its way back is broken off: running jobs need the room")

    def amended(self, plan: Plan, now: int) -> None:
        job = self.job
        amended = plan.amended
        if job is None or amended is None:
            return
        out = job in self.run.seats.without(plan)
        if out and not job.running:
            self.began_at, self.waited, self.between, self.held = self._before
            self._note(job, plan.now, "it did not join after all: the body could not start it, and is asked again")
        if job in amended.lost:
            if out and job.running:
                stay = plan.now - self.began_at
                self.began_at = plan.now
                gained = f"{job.generated - self.had:,} tokens in {_time(stay)}"
                self._note(job, plan.now, f"lost its place after {gained}: the body could not keep its KV")
            self._note(job, plan.now, FORGOTTEN)
        elif job in amended.told and not out:
            self._note(job, plan.now, f"{amended.told[job]:,} tokens of it were found after all, and are not computed")

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        if job is self.job:
            self._note(job, now, f"counted again: {abs(tokens):,} tokens {'more' if tokens > 0 else 'fewer'} than told")

    def copied(self, transfer: Transfer, now: int) -> None:
        copy = transfer.copy
        if copy.job is not self.job:
            return
        self.moving[copy] = transfer
        what = "starts to leave for the host" if copy.out else "starts to come back from the host"
        kv = "its KV" if copy.units is None else "the part of its prefix that the host has"
        self._note(copy.job, transfer.start, f"{kv} ({copy.blocks:,} blocks) {what}")

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        job = self.job
        if job is None:
            return
        for copy in outcome.copied:
            transfer = self.moving.pop(copy, None)
            if transfer is not None and not copy.orphan:
                kv = "its KV" if copy.units is None else "that part"
                self._note(job, transfer.end, f"{kv} is {'on the host' if copy.out else 'back on the device'}")
        if job.running or job in finished:
            self.stalled += outcome.stall
        for other, tokens in plan.prefill:
            if other is job:
                self._chunk(job, [tokens] * outcome.iterations, now)
        if job in finished:
            self._end(job, now)
        else:
            self._moved(job, now)
            self._holds(now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        job = self.job
        if job is not None:
            self.moving.clear()
            self._note(job, now, "a step failed: all KV is forgotten, and will have to be computed again")
            if job in lost or job in self.run.seats.of:
                self.began_at = now
                self.chunks = []

    # -- what it makes of it ---------------------------------------------------------------------------------------

    def _take_up(self, job: Job, now: int) -> str:
        """Returns what its policy says of it."""
        self.job = job
        self.began_at = now
        self.had = job.generated
        self.first = job.generated == 0
        word = said(self.scheduler.policy, job)
        self.level = level(word)
        return word

    def _holds(self, now: int) -> None:
        """Its policy has come to hold it back, or has ceased to."""
        job = self.job
        if job is not None and job.held_back != self.held:
            self.held = job.held_back
            word = said(self.scheduler.policy, job)
            self._note(job, now, word if self.held else f"held back no longer, after {_time(job.held)}; {word}")

    def _note(self, job: Job, at: int, what: str) -> None:
        self.lines.append(Line(at, at - job.arrival, job.served, job.generated, what))

    def _joined(self, job: Job, plan: Plan) -> None:
        wait = plan.now - self.began_at
        if job.preemptions:
            self.between += wait
        else:
            self.waited += wait
        self.began_at = plan.now
        self.had = job.generated
        self.chunks = []
        found = plan.found.get(job, 0)
        owed = job.prompt + job.generated - plan.first(job)
        how = COMES_WITH.get(job.place) or f"{owed:,} tokens to prefill" + (" again" if job.generated else "")
        how += f", {found:,} found" if found else ""
        beaten = ", ".join([f"job {other.id}" for other in plan.left])
        instead = f", as {beaten} left" if beaten else ""
        word = said(self.scheduler.policy, job)
        if job.held_back:
            word += "; overruled, as nothing ran and nobody would have been woken"
            self.held = False
        slot = self.run.seats.of[job]
        self._note(job, plan.now, f"joined slot {slot} after {_time(wait)} of waiting{instead}; {how}; {word}")

    def _left(self, job: Job, plan: Plan) -> None:
        stay = plan.now - self.began_at
        self.began_at = plan.now
        word = said(self.scheduler.policy, job)
        gained = f"{job.generated - self.had:,} tokens in {_time(stay)}"
        self._note(
            job, plan.now, f"preempted after {gained}: {why_left(plan, self.scheduler)}; {word}; its KV is parked"
        )

    def _chunk(self, job: Job, tokens: list[int], now: int) -> None:
        self.chunks += tokens
        if not (job.rolling or job.finish):
            return
        chunks = len(self.chunks)
        parts = f" in {chunks} chunks ({', '.join(map(str, self.chunks))})" if chunks > 1 else ""
        token = f"first token, {_time(now - job.arrival)} after its arrival" if self.first else "the next token with it"
        self.first = False
        self._note(job, now, f"prefilled {sum(self.chunks):,} tokens{parts}; {token}")
        self.chunks = []

    def _moved(self, job: Job, now: int) -> None:
        if self.level is None:
            return
        word = said(self.scheduler.policy, job)
        new = level(word)
        if new is not None and new != self.level:
            self._note(job, now, f"{'demoted' if new > self.level else 'promoted'} from Q{self.level}: {word}")
            self.level = new

    def _end(self, job: Job, now: int) -> None:
        held = f"held back {_time(job.held)} of it, " if job.held else ""
        times = "once" if job.preemptions == 1 else f"{job.preemptions} times"
        self._note(
            job,
            now,
            f"ended ({job.finish}) with {job.generated:,} tokens after {_time(now - job.arrival)}: waited "
            f"{_time(self.waited)} at first and {_time(self.between)} between visits, {held}"
            f"served {_time(job.served)}, stalled {_time(self.stalled)} by copies; preempted {times}",
        )
        self.job = None

    # -- what is shown ---------------------------------------------------------------------------------------------

    def told(self) -> list[Line]:
        """By time. A copy's end may be known before other things that happen meanwhile."""
        return sorted(self.lines, key=lambda line: line.at)

    def text(self, label: str, seed: int | None = None) -> str:
        """A heading and a line each; seconds."""
        lines = [f"job {self.id} under {label}" + ("" if seed is None else f", seed {seed}")]
        if not self.lines:
            return f"{lines[0]}: the run was stopped before it arrived\n"
        lines.append(f"{'at s':>12}  {'age s':>11}  {'served s':>11}  {'tokens':>6}")
        for line in self.told():
            figures = f"{line.at / 1e9:12.6f}  {line.age / 1e9:11.6f}  {line.served / 1e9:11.6f}"
            lines.append(f"{figures}  {line.generated:6,}  {line.what}")
        if self.job is not None:
            lines.append(f"{'':46}  (the run was stopped here)")
        return "\n".join(lines) + "\n"


def _time(ns: int) -> str:
    return f"{ns / 1e9:.3f} s" if ns >= 10**9 else f"{ns / 1e6:.3g} ms"
