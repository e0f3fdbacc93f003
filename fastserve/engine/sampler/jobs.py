"""Jobs: what a body keeps of its jobs between steps, which of their tokens a plan processes, and their next ones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from fastserve.engine.backend import Failed, Result, Token
from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.drafts import Drawn, Speaker, draw
from fastserve.engine.sampler.results import SamplingError
from fastserve.engine.sampler.sampler import Floats, Sampler
from fastserve.engine.sampler.state import SamplingState
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

log = logging.getLogger("fastserve")

Drafts = Mapping[Job, Sequence[int]]
"""Of jobs that decode, the guesses that a step verifies."""

NONE: Final[Drafts] = {}


class JobState(NamedTuple):
    """What the body knows of a job: its prompt, the tokens that it has got, and what its next draw depends on."""

    prompt: list[int]
    tokens: list[int]
    sampling: SamplingState


class Part(NamedTuple):
    """Of one job in a step: the tokens that are processed, the position of the first, and behind how many of the last
    ones logits are wanted (none, the last one, or all of a decode with its drafts).
    """

    job: Job
    tokens: list[int]
    first: int
    yields: int


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

    def decodes(self, plan: Plan, drafts: Drafts = NONE) -> list[Part]:
        """The newest token of each job that decodes, and behind it the guesses that are verified."""
        parts = []
        for job, _ in plan.work[len(plan.prefill) :]:
            guessed = drafts.get(job, ())
            tokens = [*self.states[job].tokens[-1:], *guessed]
            parts.append(Part(job, tokens, job.prompt + job.generated - 1, 1 + len(guessed)))
        return parts

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

    def draw(self, logits: Floats, jobs: Sequence[Job], drafts: Drafts = NONE) -> list[tuple[Job, Result]]:
        """The next token of each job, and those behind its drafts that are right. logits: (n, vocab), of each job in
        turn a row, and one more for each of its drafts. They are left as they are.
        """
        speakers = []
        row = 0
        for job in jobs:
            guessed = drafts.get(job, ())
            speakers.append(Speaker(self.states[job].sampling, row, guessed))
            row += 1 + len(guessed)
        written = bool(drafts) or self.sampler.writes([state for state, *_ in speakers])
        try:
            drawn = draw(self.sampler, logits.copy() if written else logits, speakers)
        except MemoryError:
            raise
        except Exception as error:  # one request's, but whose?
            log.warning("sampling failed (%r): each request of this step is drawn for alone", error)
            drawn = [self._alone(logits[row : row + 1], state) for state, row, _ in speakers]
        return [(job, self._say(job, one)) for job, one in zip(jobs, drawn, strict=True)]

    def _alone(self, row: Floats, state: SamplingState) -> Drawn:
        try:
            one = self.sampler.sample(row.copy(), [state])[0]
        except Exception as error:  # a shortage of memory too: the rows before have moved on, the step must stand
            return SamplingError(f"{type(error).__name__}: {error}")
        return one if isinstance(one, SamplingError) else [one]

    def _say(self, job: Job, drawn: Drawn) -> Result:
        if isinstance(drawn, SamplingError):
            return Failed(str(drawn))
        self.states[job].tokens.extend([one.token for one in drawn])
        return [Token(one.token, one.logprob, None if one.top is None else dict(one.top)) for one in drawn]
