"""The trace as a comparison's bodies replay it: with limits that a context holds, after a few requests that warm up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastserve.workload import Trace

WARM, WARM_TOKENS = 4, 8
"""Requests, and tokens of each output at most, before a body is measured."""


def fitting(trace: Trace, context: int, model: str) -> Trace:
    """The trace with limits that leave every request within `context` tokens; none is below a request's output.

    ValueError that counts the requests whose prompt and output do not fit: none is dropped or cut.
    """
    limits = np.full(len(trace), trace.output.max())
    if trace.max_tokens is not None:
        limits = np.where(trace.max_tokens > 0, trace.max_tokens, limits)
    need = trace.prompt + np.minimum(trace.output, limits)
    long = int((need > context).sum())
    if long:
        raise ValueError(
            f"{long} of the {len(trace)} requests of {trace.name} do not fit the context of {model}, {context} tokens "
            f"(the longest needs {int(need.max())}), and none is dropped: take a model with a longer context, or a "
            f"trace of shorter requests, such as `python -m sim.trace synthesise tiny.jsonl -n 24 --rate 4 "
            f"--lengths profile:alpaca` writes"
        )
    if bool((trace.prompt + limits <= context).all()):
        return trace
    return replace(trace, max_tokens=np.minimum(limits, context - trace.prompt))


def warm_up(trace: Trace) -> Trace:
    """A few short requests of the trace, all at once: the first steps of a process are its slowest."""
    few = trace.head(WARM)
    return Trace("warm-up", trace.source, np.zeros(len(few), np.int64), few.prompt, np.minimum(few.output, WARM_TOKENS))
