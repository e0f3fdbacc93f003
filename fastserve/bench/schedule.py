"""Calls out of a trace: what is sent, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastserve.bench.call import Call
from fastserve.bench.prompts import Prompts
from fastserve.predictors import Predictor
from fastserve.workload import Trace
from fastserve.workload.requests import TraceRequest, requests_of, tools_of, within


def calls_of(
    trace: Trace,
    prompts: Prompts | Sequence[str],
    *,
    predictor: Predictor | None = None,
    max_model_len: int | None = None,
) -> list[Call]:
    """One Call for each request of the trace (fastserve.workload.requests), due at its arrival.

    prompts: makes them, or the texts themselves. predictor: of the guesses, as in the simulator; by default the trace's
    own stand. max_model_len: limits are cut to what a context of so many tokens leaves.
    """
    return calls_from(trace, requests_for(trace, predictor, max_model_len), prompts)


def requests_for(trace: Trace, predictor: Predictor | None, max_model_len: int | None) -> list[TraceRequest]:
    """See calls_of()."""
    requests = requests_of(trace, predictor)
    return list(requests if max_model_len is None else within(requests, max_model_len))


def calls_from(trace: Trace, requests: Iterable[TraceRequest], prompts: Prompts | Sequence[str]) -> list[Call]:
    """requests: of the trace, see requests_for()."""
    tools, called = tools_of(trace), trace.tool
    return [
        Call(
            request,
            prompts[request.id] if isinstance(prompts, Sequence) else prompts.make(request.id, request.prompt),
            "" if tools is None else tools[request.id],
            "" if called is None else called[request.id],
        )
        for request in requests
    ]
