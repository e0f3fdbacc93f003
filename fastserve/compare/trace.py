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


def warm_up(trace: Trace, context: int | None = None) -> Trace:
    """A few short requests of the trace, all at once: the first steps of a process are the slowest. context: no prompt
    is too long for so many tokens.
    """
    few = trace.prompt[:WARM], np.minimum(trace.output[:WARM], WARM_TOKENS)
    prompt = few[0] if context is None else np.minimum(few[0], max(1, context - WARM_TOKENS))
    return Trace("warm-up", trace.source, np.zeros(len(prompt), np.int64), prompt, few[1])


def too_long(trace: Trace, context: int, model: str) -> list[str]:
    """Of sessions: what becomes of requests that exceed the context, in a sentence; none where all fit."""
    need = trace.prompt + np.array(outputs_of(trace))
    long = int((need > context).sum())
    if not long:
        return []
    return [
        f"{long} of the {len(trace)} requests of {trace.name} do not fit the context of {model}, {context} tokens: "
        f"they are refused when they come, and abandon their programs (the longest needs {int(need.max())})"
    ]
