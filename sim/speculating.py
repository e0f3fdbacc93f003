"""SpeculatingMachine: a modelled machine whose jobs verify guesses of their next tokens, as many as are worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastserve.hardware import LatencyModel
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.units import Ids
from fastserve.speculation.acceptance import Draws
from fastserve.speculation.control import Controller
from sim.inbox import Inbox
from sim.link import Link
from sim.machine import AnsweringMachine, push


class SpeculatingMachine(AnsweringMachine):
    """draws: which guesses are right. most: guesses of a job in an iteration; control: whether fewer are made where
    that is quicker, by the latency model and what was right so far, as a real body does.

    A plan that verifies guesses is run for one iteration; between such plans stretches are as long as ever.
    """

    def __init__(
        self,
        latency: LatencyModel,
        link: Link,
        outputs: Sequence[int],
        inbox: Inbox,
        answers: Callable[[int], Ids] | None,
        calls: Sequence[str] | None,
        draws: Draws,
        most: int,
        control: bool = True,
    ) -> None:
        super().__init__(latency, link, outputs, inbox, answers, calls)
        self.draws = draws
        self.fixed = most
        self.controller = Controller(latency, most) if control else None
        self.guessing = True
        self.decoding: dict[int, Job] = {}  # by id: who decodes
        self.told: list[tuple[Job, int, int]] = []  # Outcome.drafts and .extra of this iteration
        self.extra: list[tuple[Job, int]] = []

    def run(self, plan: Plan) -> Outcome:
        self.drafts = 0
        outcome = super().run(plan)
        if self.drafts:
            outcome.drafts, outcome.extra = self.told, self.extra
        elif plan.batch and outcome.iterations > 1 and self.controller is not None:
            self.controller.passed(outcome.iterations - 1)
        return outcome

    def again(self, plan: Plan, outcome: Outcome, at: int, rest: int) -> Outcome:
        if plan.batch and self.controller is not None:
            self.controller.passed(1 - outcome.iterations)
        self.guessing = False  # it has been asked
        again = super().again(plan, outcome, at, rest)
        self.guessing = True
        return again

    def guess(self, plan: Plan) -> None:
        controller = self.controller
        if controller is None:
            k = self.fixed
        else:
            k = controller.k(plan.batch, plan.context)
            if k == 0:
                self.most = 1 + controller.idle()
                return
        self.most = 1
        self.told = told = []
        self.extra = extra = []
        draws, outputs, end, steps = self.draws, self.outputs, self.end, self.steps
        total = 0
        for id, job in self.decoding.items():
            left = end[id] - steps  # tokens that it will yet get
            generated = outputs[id] - left
            room = job.limit - generated - 1
            drafted = draws.drafted(id, generated, k if k < room else room) if room > 0 else 0
            if drafted == 0:
                if controller is not None and room > 0:
                    controller.saw(0, 0)
                continue
            accepted = min(draws.accepted(id, generated, drafted), left)
            if controller is not None:
                controller.saw(min(drafted, left), accepted)  # what is behind its end shows nothing
            total += drafted
            told.append((job, drafted, accepted))
            delta = accepted if accepted < left else left - 1
            if delta:
                extra.append((job, delta))
                end[id] -= delta
                push(self.ends, (end[id], id, job))
        self.drafts = total

    def _follow(self, plan: Plan) -> None:
        for job in plan.gone:
            self.decoding.pop(job.id, None)
            self.draws.forget(job.id)
        for job in plan.left:
            self.decoding.pop(job.id, None)
        super()._follow(plan)

    def _expect(self, job: Job, more: int) -> None:
        self.decoding[job.id] = job
        super()._expect(job, more)

    def _ended(self, ended: list[Job]) -> None:
        known = len(ended)
        super()._ended(ended)
        for job in ended[known:]:
            del self.decoding[job.id]
            self.draws.forget(job.id)
