"""OutputProcessor: detokenization, stop conditions and finish reasons for the tokens of a Step, for every backend."""

from __future__ import annotations

from collections.abc import Mapping

from fastserve.engine.backend import Backend, Failed, Said, Step
from fastserve.engine.request import Piece, Request
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan


class OutputProcessor:
    """Engine's thread only. requests: the admitted, not ended ones, by job."""

    def __init__(self, backend: Backend, requests: Mapping[Job, Request]) -> None:
        self.name = backend.info.backend
        self.eos = backend.info.eos_ids
        self.uneven = backend.traits.uneven
        self.requests = requests
        self.pieces: list[tuple[Request, Piece]] = []  # of the last step, in order

    def check(self, plan: Plan, step: Step) -> None:
        """Before any request accepts a token. RuntimeError for a step that contradicts the backend's traits."""
        unknown = [job.id for job, _ in step.said if job not in self.requests]
        if unknown:
            raise RuntimeError(
                f"backend {self.name}: it returned tokens for job {unknown[0]}, which is not in the engine"
            )
        if self.uneven:
            return
        due = plan.batch
        for job, tokens in plan.prefill:
            due += job.prefilled + tokens == job.prompt + job.generated
        wrong = [job.id for job, said in step.said if not isinstance(said, Failed) and len(said) != 1]
        if wrong or len(step.said) != due:
            what = (
                f"job {wrong[0]} did not get exactly one token"
                if wrong
                else f"{len(step.said)} jobs got tokens, {due} were due"
            )
            raise RuntimeError(
                f"backend {self.name}: {what} in one iteration; such a backend must set Traits(uneven=True)"
            )

    def accept(self, step: Step) -> Outcome:
        """Appends the tokens to their requests and fills `pieces`. The times of the outcome are not set."""
        self.pieces = []
        ended: list[Job] = []
        for job, said in step.said:
            pieces = self._take(self.requests[job], said)
            if pieces and pieces[-1].finish_reason:
                ended.append(job)
            self.pieces += [(self.requests[job], piece) for piece in pieces]
        return Outcome(1, 0, step.stall, ended, step.copied)

    def _take(self, request: Request, said: Said) -> list[Piece]:
        """The pieces of these tokens; those after the end of the request are dropped. A failure ends it too."""
        if isinstance(said, Failed):
            return [request.end("error", said.error)]
        pieces = []
        for token in said:
            try:
                piece = request.accept(token.id, self.eos, token.logprob, token.top)
            except Exception as error:
                piece = request.end("error", f"{type(error).__name__}: {error}")
            pieces.append(piece)
            if piece.finish_reason:
                break
        return pieces
