"""Calls out of a trace: what is sent, and when."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.bench.call import Call
from fastserve.bench.prompts import Prompts
from fastserve.predictors import Predictor
from fastserve.workload import Trace
from fastserve.workload.requests import requests_of, within


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
    requests = requests_of(trace, predictor)
    if max_model_len is not None:
        requests = within(requests, max_model_len)
    return [
        Call(
            request, prompts[request.id] if isinstance(prompts, Sequence) else prompts.make(request.id, request.prompt)
        )
        for request in requests
    ]
