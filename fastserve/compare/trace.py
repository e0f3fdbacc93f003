"""Checks that a trace fits a context, and makes warm-up requests."""

from __future__ import annotations

import numpy as np

from fastserve.workload import Trace
from fastserve.workload.requests import outputs_of

WARM, WARM_TOKENS = 4, 8
"""Requests of a warm-up, and maximum output tokens of each."""


def check_fits(trace: Trace, context: int, model: str) -> None:
    """Raises ValueError if prompt and output of any request exceed `context` tokens: none is dropped or truncated.

    Where it passes, workload.requests.within() leaves a limit above no output.
    """
    need = trace.prompt + np.array(outputs_of(trace))
    long = int((need > context).sum())
    if long:
        raise ValueError(
            f"{long} of the {len(trace)} requests of {trace.name} do not fit the context of {model}, {context} tokens "
            f"(the longest needs {int(need.max())}), and none is dropped: take a model with a longer context, or a "
            f"trace of shorter requests, such as `python -m sim.trace synthesise tiny.jsonl -n 24 --rate 4 "
            f"--lengths profile:alpaca` writes"
        )


def warm_up(trace: Trace) -> Trace:
    """A few short requests of the trace, all at once: the first steps of a process are the slowest."""
    few = trace.head(WARM)
    return Trace("warm-up", trace.source, np.zeros(len(few), np.int64), few.prompt, np.minimum(few.output, WARM_TOKENS))
