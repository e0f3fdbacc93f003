"""Speculation on this body: which guesses a step verifies, and what becomes of their KV. See speculation/drafting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastserve.backends.llamacpp.context import Context
from fastserve.backends.llamacpp.draft_model import DraftModel, load_draft
from fastserve.backends.llamacpp.model import Model
from fastserve.engine.backend import Result, Wanted
from fastserve.engine.sampler.jobs import Drafts, JobState
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.speculation.drafting import Drafting
from fastserve.speculation.ngram import Ngrams
from fastserve.speculation.proposer import Proposer
from fastserve.speculation.spec import Speculate


def drafting_for(asked: Speculate, model: Model, wanted: Wanted) -> Drafting:
    """Who guesses for this model as is asked, loaded. wanted: of the target's memory. Raises as load_draft() does."""
    proposer: Proposer = Ngrams()
    if asked.method == "draft":
        proposer = DraftModel(load_draft(asked.model, model), wanted, model.vocab_size)
    return Drafting(asked, proposer)


class Speculating:
    """drafting: who guesses. states: of the body's jobs. context: where they are verified."""

    def __init__(self, drafting: Drafting, states: Mapping[Job, JobState], context: Context) -> None:
        self.drafting = drafting
        self.states = states
        self.context = context

    def guesses(self, plan: Plan) -> Drafts:
        """The drafts that are worth verifying."""
        return self.drafting.guesses(plan, self.states)

    def verified(
        self, plan: Plan, drafts: Drafts, rows: Mapping[Job, int], results: Sequence[tuple[Job, Result]], took: int
    ) -> list[tuple[Job, int, int]]:
        """What became of the drafts; the KV of those that were wrong is removed. rows: sequences. took: ns."""
        told = []
        for job, result in results:
            guessed = drafts.get(job)
            if guessed:
                accepted = len(result) - 1
                told.append((job, len(guessed), accepted))
                if accepted < len(guessed):
                    self.context.remove(rows[job], job.prompt + job.generated + accepted)
        self.drafting.done(plan, told, took)
        return told
