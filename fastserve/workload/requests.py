"""Converts a trace to requests, for the simulator, playback on an engine, the bench client and `ab`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fastserve.sched.job import NEVER, Job
from fastserve.sched.slo import NO_TARGETS, SloTargets
from fastserve.workload.trace import NS, IntArray, Trace

if TYPE_CHECKING:
    from fastserve.predictors import Predictor


_Row: TypeAlias = tuple[int, int, int, int, int, str, str, int, SloTargets, int | None, str]
"""The fields of a TraceRequest."""


class TraceRequest(NamedTuple):
    """One row of a trace, for drivers. A scheduler gets its Job, without `output`."""

    id: int
    """Its row, dense from 0."""
    arrival: int
    """ns since the trace's start."""
    prompt: int
    """Prompt tokens."""
    output: int
    """True output length in tokens, which schedulers never see. Bounded by the row's own max_tokens."""
    limit: int
    """max_tokens: the row's own, else the largest output of the trace."""
    client: str = ""
    program: str = ""
    priority: int = 0
    """The smaller, the more urgent."""
    slo: SloTargets = NO_TARGETS
    guess: int | None = None
    """Predicted output tokens: by the driver's predictor, else from the trace."""
    slo_class: str = ""
    """For records only: neither a policy nor a server is told."""

    @property
    def deadline(self) -> int:
        """ns since the trace's start; NEVER without one."""
        return self.slo.deadline(self.arrival)

    @property
    def scheduling(self) -> dict[str, Any]:
        """Scheduling arguments of Engine.submit() and of our own server's routes, by name; times in s.

        Missing values are left out. Client and guess are passed separately.
        """
        ttft, tpot, e2e = [None if span is None else span / NS for span in self.slo]
        fields = {"program": self.program or None, "priority": self.priority or None, "deadline_s": e2e,
                  "ttft_slo_s": ttft, "tpot_slo_s": tpot}  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}

    def job(self) -> Job:
        """The Job for a scheduler, without the guess, which is only for policies that need one."""
        id, arrival, prompt, _, limit, client, program, priority, slo, _, _ = self
        deadline = NEVER if slo is NO_TARGETS else slo.deadline(arrival)
        return Job(id, arrival, prompt, limit, client, program, priority, deadline)


def requests_of(trace: Trace, predictor: Predictor | None = None) -> Iterator[TraceRequest]:
    """The trace's requests in order of arrival, made one at a time, for drivers of an engine or server.

    predictor: called once for each; without one the trace's own guesses are used.
    """
    requests = _plain(trace)
    if predictor is None:
        return requests
    jobs = jobs_of(trace, predictor)
    return (request._replace(guess=job.guess) for request, job in zip(requests, jobs, strict=True))


def jobs_of(trace: Trace, predictor: Predictor | None = None) -> Iterator[Job]:
    """The same requests as Jobs, for drivers of a Scheduler. Without a predictor no job has a guess."""
    for row in _rows(trace):
        yield _job(row, row[1], predictor)


def job_maker(trace: Trace, predictor: Predictor | None = None) -> Callable[[int, int], Job]:
    """The same for a driver that learns only while it runs when a request comes: (row, ns) -> the Job of that row.

    It knows the tool whose result its prompt brings, and not whether anything follows: few clients do.
    """
    rows = list(_rows(trace))
    tools = tools_of(trace)

    def make(row: int, arrival: int) -> Job:
        job = _job(rows[row], arrival, predictor)
        if tools is not None:
            job.tool = tools[row]
        return job

    return make


def tools_of(trace: Trace) -> list[str] | None:
    """By row the tool that the answer before it called, of several the last; "" for none. None where nothing tells."""
    if trace.tool is None or trace.after is None:
        return None
    called = trace.tool
    return [next((called[row] for row in reversed(before) if called[row]), "") for before in trace.after]


def _job(row: _Row, arrival: int, predictor: Predictor | None) -> Job:
    id, _, prompt, output, limit, client, program, priority, slo, _, _ = row
    deadline = NEVER if slo is NO_TARGETS else slo.deadline(arrival)
    job = Job(id, arrival, prompt, limit, client, program, priority, deadline)
    if predictor is not None:
        job.guess = predictor.predict(job, output)
    return job


def _plain(trace: Trace) -> Iterator[TraceRequest]:
    """Rows of the trace as requests."""
    return map(TraceRequest._make, _rows(trace))


def _rows(trace: Trace) -> Iterator[_Row]:
    """The fields of each TraceRequest."""
    outputs = outputs_of(trace)
    return zip(
        range(len(trace)),
        trace.arrival.tolist(),
        trace.prompt.tolist(),
        outputs,
        limits_of(trace, outputs),
        trace.client or repeat(""),
        trace.program or repeat(""),
        repeat(0) if trace.priority is None else trace.priority.tolist(),
        targets_of(trace) or repeat(NO_TARGETS),
        repeat(None) if trace.guess is None else [guess or None for guess in trace.guess.tolist()],
        trace.slo_class or repeat(""),
        strict=False,  # repeat() has no end; a Trace's columns are of equal length
    )


def guesses_of(trace: Trace) -> list[int] | None:
    """The trace's own guesses by row, for predictors.make(); 0 where a row has none."""
    return None if trace.guess is None else trace.guess.tolist()


def outputs_of(trace: Trace) -> list[int]:
    """True output lengths by row, bounded by the row's own max_tokens."""
    outputs: list[int] = trace.output.tolist()
    if trace.max_tokens is not None:
        outputs = [min(o, m) if m else o for o, m in zip(outputs, trace.max_tokens.tolist(), strict=True)]
    return outputs


def limits_of(trace: Trace, outputs: list[int]) -> Iterable[int]:
    """A row's own max_tokens, else the largest output: one constant, so that a limit does not reveal its output."""
    constant = max(outputs)
    if trace.max_tokens is None:
        return repeat(constant, len(outputs))
    return [limit or constant for limit in trace.max_tokens.tolist()]


def longest_of(trace: Trace) -> int:
    """Tokens of the longest request that the trace asks for: prompt and limit together."""
    limits = limits_of(trace, outputs_of(trace))
    prompts: list[int] = trace.prompt.tolist()
    return max(prompt + limit for prompt, limit in zip(prompts, limits, strict=True))


def targets_of(trace: Trace) -> list[SloTargets] | None:
    """By row; None for a trace that has no such column."""
    columns = (trace.ttft_slo, trace.tpot_slo, trace.e2e_slo)
    if all(column is None for column in columns):
        return None
    none: list[int | None] = [None] * len(trace)
    spans = [none if column is None else _spans(column) for column in columns]
    return [SloTargets(*row) for row in zip(*spans, strict=True)]


def _spans(column: IntArray) -> list[int | None]:
    return [span if 0 < span < NEVER else None for span in column.tolist()]


def within(requests: Iterable[TraceRequest], context: int) -> Iterator[TraceRequest]:
    """Their limits cut to what a context of so many tokens leaves behind the prompt, but never below the output.

    For backends that refuse a limit beyond their context. A request that does not fit at all is unchanged.
    """
    for request in requests:
        room = max(context - request.prompt, request.output)
        yield request if request.limit <= room else request._replace(limit=room)
