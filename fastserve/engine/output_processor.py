"""OutputProcessor: detokenization, stop conditions and finish reasons for the tokens of a Step, for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastserve.engine.backend import Backend, Ended, Failed, Result, Step, Token
from fastserve.engine.request import Piece, Request
from fastserve.engine.unit_names import UnitNames
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.units import Ids


class OutputProcessor:
    """Engine's thread only. requests: the admitted, not ended ones, by job.

    lookahead: tokens beyond the first one of an iteration for which the Scheduler reserves blocks. names: of units;
    None where prefixes are not cached.
    """

    def __init__(
        self, backend: Backend, requests: Mapping[Job, Request], lookahead: int = 0, names: UnitNames | None = None
    ) -> None:
        self.name = backend.info.backend
        self.eos = backend.info.eos_ids
        self.uneven = backend.traits.uneven
        self.requests = requests
        self.lookahead = lookahead
        self.names = names
        self.pieces: list[tuple[Request, Piece]] = []  # of the last step, in order

    def check(self, plan: Plan, step: Step) -> None:
        """Before any request takes a token. RuntimeError for a step that contradicts plan or traits."""
        fault = self._uneven_fault(plan, step) if self.uneven else self._even_fault(plan, step)
        if fault:
            raise RuntimeError(f"backend {self.name}: {fault}")

    def _even_fault(self, plan: Plan, step: Step) -> str:
        if step.drafts:
            return f"job {step.drafts[0][0].id} verified drafts; {UNEVEN}"
        due = set(plan.due)
        if len(step.results) != len(due):
            return f"{len(step.results)} jobs got tokens, {len(due)} were due one; {UNEVEN}"
        for job, result in step.results:
            fault = _fault(job, due, result)
            if fault:
                return fault
            if not isinstance(result, Failed) and len(_tokens(result)) != 1:
                return f"job {job.id} got {len(_tokens(result))} tokens in one iteration; {UNEVEN}"
        return ""

    def _uneven_fault(self, plan: Plan, step: Step) -> str:
        due = set(plan.due)
        for job, result in step.results:
            fault = _fault(job, due, result)
            if fault:
                return fault
            came = len(_tokens(result))
            if came > 1 + self.lookahead:
                return (
                    f"job {job.id} got {came} tokens in one iteration, and blocks are reserved for "
                    f"{1 + self.lookahead}: set lookahead to {came - 1} or more"
                )
        return _drafts_fault(step) if step.drafts else ""

    def accept(self, plan: Plan, step: Step) -> Outcome:
        """Appends the tokens to their requests and fills `pieces`. The times of the outcome are not set."""
        self.pieces = []
        requests, eos = self.requests, self.eos
        ended: list[Job] = []
        before = {job: len(requests[job].tokens) for job in plan.due} if self.uneven else {}
        for job, result in step.results:
            request = requests[job]
            if isinstance(result, Failed):
                ended.append(job)
                self.pieces.append((request, request.end("error", result.error)))
                continue
            for id, logprob, top in _tokens(result):
                try:
                    piece = request.accept(id, eos, logprob, top)
                except Exception as error:
                    piece = request.end("error", f"{type(error).__name__}: {error}")
                self.pieces.append((request, piece))
                if piece.finish_reason:  # tokens behind its end are dropped
                    ended.append(job)
                    break
            if isinstance(result, Ended):
                request.counted = result.counted
                if not request.finish_reason:
                    ended.append(job)
                    self.pieces.append((request, request.end(result.reason)))
        extra = [(job, delta) for job, had in before.items() if (delta := len(requests[job].tokens) - had - 1)]
        answers = self._answers(ended) if ended and self.names is not None else None
        calls = {job: tool for job in ended if (tool := requests[job].calls)}
        return Outcome(
            1, 0, step.stall, ended, step.copied, extra=extra, answers=answers, calls=calls or None, drafts=step.drafts
        )

    def _answers(self, ended: Sequence[Job]) -> dict[Job, Ids]:
        """What they leave behind beyond the units of their prompts: no KV has been computed of their last tokens, or
        none that is theirs, where a draft behind the last one was wrong.
        """
        assert self.names is not None
        unit = self.names.unit
        answers: dict[Job, Ids] = {}
        for job in ended:
            request = self.requests[job]
            if request.named:
                answers[job] = request.answer
                continue
            whole = job.prompt + max(job.generated, len(request.tokens) - 1)
            rest = (request.prompt[unit * len(job.ids) :] + request.tokens)[: whole - unit * len(job.ids)]
            answers[job] = request.answer = self.names.of(rest, job.ids, request.root)
        return answers


UNEVEN = "a backend of uneven iterations sets Traits(uneven=True)"


def _fault(job: Job, due: set[Job], result: Result) -> str:
    """What is wrong with one entry of Step.results. due: who has got nothing yet in this step; the job is taken out."""
    if job not in due:
        return f"job {job.id} got tokens twice, or was not due any"
    due.remove(job)
    if all(isinstance(token, Token) for token in _tokens(result)):
        return ""
    return f"job {job.id} got {result!r}, and not a sequence of fastserve.engine.backend.Token, Ended or Failed"


def _tokens(result: Result) -> Sequence[Token]:
    if isinstance(result, Failed):
        return ()
    return result.tokens if isinstance(result, Ended) else result


def _drafts_fault(step: Step) -> str:
    """What is wrong with Step.drafts, which must agree with the results."""
    got = {job: len(_tokens(result)) for job, result in step.results}
    seen: set[Job] = set()
    for job, drafted, accepted in step.drafts:
        if job in seen or job not in got:
            return f"job {job.id} verified drafts twice, or got no tokens"
        seen.add(job)
        if not 0 <= accepted <= drafted or not drafted:
            return (
                f"job {job.id} verified {drafted} drafts and {accepted} of them were right; tell of what was verified"
            )
        if got[job] > 1 + accepted:
            return f"job {job.id} got {got[job]} tokens of {accepted} drafts that were right, and one behind them"
    return ""
