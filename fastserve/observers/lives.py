"""Lives: the lives of all jobs of a run, where it cannot be made again once it is known which are of interest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastserve.observers.explain import Explanation
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer, Run
from fastserve.sched.plan import Outcome, Plan, Transfer

MOST = 5_000  # jobs: some thirty lines each, and a call for each running one in every iteration


class Lives(Observer):
    """told: of each job that came, in this order, its Explanation; of the first `most`."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.told: dict[int, Explanation] = {}
        self._live: dict[Job, Explanation] = {}
        self._holds = False  # somebody was held back when it was looked last

    def began(self, run: Run, now: int) -> None:
        self.run = run
        for job in run.scheduler.live:
            story = self._begin(job)
            if story is not None:
                story.began(run, now)

    def submitted(self, job: Job, now: int) -> None:
        story = self._begin(job)
        if story is not None:
            story.submitted(job, now)
        self._held(now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        story = self._begin(job)
        if story is not None:
            story.rejected(job, now, why)
            del self._live[job]

    def cancelled(self, job: Job, now: int) -> None:
        story = self._live.pop(job, None)
        if story is not None:
            story.cancelled(job, now)
        self._held(now)

    def program_ended(self, program: str, now: int) -> None:
        self._held(now)

    def ticked(self, now: int) -> None:
        self._held(now)

    def idle(self, now: int) -> None:
        self._held(now)

    def planned(self, plan: Plan, now: int) -> None:
        self._held(plan.now)
        copies = [copy.job for copy in plan.clear]
        for story in self._of([*plan.left, *plan.joined, *plan.drop, *copies]):
            story.planned(plan, now)

    def amended(self, plan: Plan, now: int) -> None:
        amended = plan.amended
        told = [] if amended is None else [*amended.lost, *amended.told]
        for story in self._of([*self.run.seats.without(plan), *told]):
            story.amended(plan, now)

    def corrected(self, job: Job, tokens: int, now: int) -> None:
        for story in self._of([job]):
            story.corrected(job, tokens, now)

    def copied(self, transfer: Transfer, now: int) -> None:
        for story in self._of([transfer.copy.job]):
            story.copied(transfer, now)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        """To whom something may have happened; the others' levels are as they were."""
        moved = list(self.run.scheduler.ranking.dirty)
        copies = [copy.job for copy in outcome.copied]
        for story in self._of([*plan.members, *finished, *moved, *copies]):
            story.committed(plan, outcome, finished, now)
        for job in finished:
            self._live.pop(job, None)
        self._held(now)

    def failed(self, lost: Sequence[Job], now: int) -> None:
        for story in list(self._live.values()):
            story.failed(lost, now)

    def _begin(self, job: Job) -> Explanation | None:
        if len(self.told) >= self.most:
            return None
        story = self.told[job.id] = self._live[job] = Explanation(job.id)
        story.run, story.scheduler = self.run, self.run.scheduler
        return story

    def _of(self, jobs: Iterable[Job]) -> list[Explanation]:
        """Each once."""
        live = self._live
        return [live[job] for job in dict.fromkeys(jobs) if job in live]

    def _held(self, now: int) -> None:
        """Whom the policy has come to hold back, or has ceased to."""
        holding = self.run.scheduler.holding.jobs
        for job, story in self._live.items() if holding or self._holds else ():
            if story.held != job.held_back:
                story.idle(now)
        self._holds = bool(holding)
