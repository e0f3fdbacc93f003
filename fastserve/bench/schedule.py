"""Calls out of a trace: what is sent, and when."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve import predictors
from fastserve.bench.call import Call
from fastserve.bench.prompts import Prompts
from fastserve.metrics.records import NO_SLO, slos
from fastserve.sched.job import Job
from fastserve.workload import Trace


def calls_of(
    trace: Trace,
    prompts: Prompts | Sequence[str],
    *,
    predictor: predictors.Predictor | None = None,
    max_model_len: int | None = None,
) -> list[Call]:
    """One Call for each request of the trace, due at its arrival.

    prompts: makes them, or the texts themselves. predictor: fills `guess` as a replay in the simulator does; by default
    the trace's own guesses stand. The limit of a call is the trace's max_tokens, else one constant, its largest output;
    cut to what the context of `max_model_len` tokens leaves behind the prompt, and never below the output.
    """
    limits = [0] * len(trace) if trace.max_tokens is None else trace.max_tokens.tolist()
    # What a request generates is bounded by its own max_tokens.
    outputs = [min(o, m) if m else o for o, m in zip(trace.output.tolist(), limits, strict=True)]
    constant = max(outputs)
    priorities = None if trace.priority is None else trace.priority.tolist()
    guesses = [0] * len(trace) if trace.guess is None else trace.guess.tolist()
    arrivals, lengths = trace.arrival.tolist(), trace.prompt.tolist()
    objectives = [
        None if column is None else column.tolist() for column in (trace.ttft_slo, trace.tpot_slo, trace.e2e_slo)
    ]
    calls = []
    for i, (due, prompt, output) in enumerate(zip(arrivals, lengths, outputs, strict=True)):
        limit = limits[i] or constant
        if max_model_len is not None:
            limit = min(limit, max_model_len - prompt)
        limit = max(limit, output)
        guess = guesses[i] or None
        client = trace.client[i] if trace.client else ""
        program = trace.program[i] if trace.program else ""
        if predictor is not None:
            job = Job(i, due, prompt, limit, client=client, program=program)
            guess = predictor.predict(job, output)
        ttft, tpot, e2e = [column[i] if column else 0 for column in objectives]
        calls.append(
            Call(
                index=i,
                due=due,
                prompt=prompts[i] if isinstance(prompts, Sequence) else prompts.make(i, prompt),
                prompt_tokens=prompt,
                output_tokens=output,
                limit=limit,
                client=client,
                program=program,
                priority=None if priorities is None else priorities[i],
                guess=guess,
                slo=slos(ttft, tpot, e2e) if ttft or tpot or e2e else NO_SLO,
            )
        )
    return calls
