"""Jobs: what a body keeps of its jobs between steps, which of their tokens a plan processes, and their next ones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from fastserve.engine.backend import Failed, Result, Token
from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.results import Sampled, SamplingError
from fastserve.engine.sampler.sampler import Floats, Sampler
from fastserve.engine.sampler.state import SamplingState
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

log = logging.getLogger("fastserve")


class JobState(NamedTuple):
    """What the body knows of a job: its prompt, the tokens that it has got, and what its next draw depends on."""

    prompt: list[int]
    tokens: list[int]
    sampling: SamplingState


class Part(NamedTuple):
    """Of one job in a step: the tokens that are processed, the position of the first, and whether the last yields."""

    job: Job
    tokens: list[int]
    first: int
    yields: bool


class Jobs:
    """eos_ids, suppress: of the model."""

    def __init__(self, eos_ids: Collection[int], suppress: Iterable[int] = ()) -> None:
        self.states: dict[Job, JobState] = {}
        self.eos_ids = eos_ids
        self.sampler = Sampler(suppress)

    def __len__(self) -> int:
        return len(self.states)

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        self.states[job] = JobState(prompt, [], SamplingState(params, seed=seed, prompt=prompt, eos_ids=self.eos_ids))

    def forget(self, job: Job) -> None:
        self.states.pop(job, None)

    def clear(self) -> None:
        self.states.clear()

    def decodes(self, plan: Plan) -> list[Part]:
        """The newest token of each job that decodes."""
        return [
            Part(job, self.states[job].tokens[-1:], job.prompt + job.generated - 1, True)
            for job, _ in plan.work[len(plan.prefill) :]
        ]

    def chunks(self, plan: Plan) -> list[Part]:
        """Of each prefill what this plan processes."""
        parts = []
        for job, more in plan.prefill:
            state = self.states[job]
            first = plan.first(job)
            end = first + more
            known = state.prompt if end <= job.prompt else state.prompt + state.tokens
            parts.append(Part(job, known[first:end], first, plan.completes(job, more)))
        return parts

    def draw(self, logits: Floats, jobs: Sequence[Job]) -> list[tuple[Job, Result]]:
        """The next token of each job; row i of logits (n, vocab) is of jobs[i]. They are left as they are."""
        states = [self.states[job].sampling for job in jobs]
        try:
            drawn = self.sampler.sample(logits.copy(), states)
        except MemoryError:
            raise
        except Exception as error:  # one request's, but whose?
            log.warning("sampling failed (%r): each request of this step is drawn for alone", error)
            drawn = [self._alone(row[None], state) for row, state in zip(logits, states, strict=True)]
        return [(job, self._say(job, one)) for job, one in zip(jobs, drawn, strict=True)]

    def _alone(self, row: Floats, state: SamplingState) -> Sampled | SamplingError:
        try:
            return self.sampler.sample(row.copy(), [state])[0]
        except Exception as error:  # a shortage of memory too: the rows before have moved on, the step must stand
            return SamplingError(f"{type(error).__name__}: {error}")

    def _say(self, job: Job, drawn: Sampled | SamplingError) -> Result:
        if isinstance(drawn, SamplingError):
            return Failed(str(drawn))
        self.states[job].tokens.append(drawn.token)
        return (Token(drawn.token, drawn.logprob, None if drawn.top is None else dict(drawn.top)),)
