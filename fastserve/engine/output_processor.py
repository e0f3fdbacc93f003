"""OutputProcessor: the tokens of a Step become what clients see, once for all bodies: text, stop strings, ends."""

from __future__ import annotations

from collections.abc import Mapping

from fastserve.engine.backend import Backend, Failed, Said, Step
from fastserve.engine.request import Piece, Request
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan


class OutputProcessor:
    """On the engine's thread. requests: by job, those that are admitted and have not ended."""

    def __init__(self, backend: Backend, requests: Mapping[Job, Request]) -> None:
        self.name = backend.info.backend
        self.eos = backend.info.eos_ids
        self.uneven = backend.traits.uneven
        self.requests = requests
        self.pieces: list[tuple[Request, Piece]] = []  # of the last step, in order

    def check(self, plan: Plan, step: Step) -> None:
        """Before any request has accepted a token. RuntimeError for a step that is not what the body's traits say."""
        strangers = [job.id for job, _ in step.said if job not in self.requests]
        if strangers:
            raise RuntimeError(f"backend {self.name}: job {strangers[0]} got tokens and is not one of the engine's")
        if self.uneven:
            return
        due = plan.batch
        for job, tokens in plan.prefill:
            due += job.prefilled + tokens == job.prompt + job.generated
        wrong = [job.id for job, said in step.said if not isinstance(said, Failed) and len(said) != 1]
        if wrong or len(step.said) != due:
            what = (
                f"job {wrong[0]} got other than one token" if wrong else f"{len(step.said)} jobs spoke, {due} were due"
            )
            raise RuntimeError(
                f"backend {self.name}: {what} in one iteration; a body that does so must say Traits(uneven=True)"
            )

    def accept(self, step: Step) -> Outcome:
        """Each request takes its tokens; `pieces` is what they came to. The times of the outcome are not filled in."""
        self.pieces = []
        ended: list[Job] = []
        for job, said in step.said:
            pieces = self._take(self.requests[job], said)
            if pieces and pieces[-1].finish_reason:
                ended.append(job)
            self.pieces += [(self.requests[job], piece) for piece in pieces]
        return Outcome(1, 0, step.stall, ended, step.copied)

    def _take(self, request: Request, said: Said) -> list[Piece]:
        """What it takes of these tokens: those behind its end are dropped. A failure is an end like any other."""
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
