"""What a draw comes to: a token, or why there is none."""

from __future__ import annotations

from typing import NamedTuple

from fastserve.engine.sampler.state import SamplingState


class Sampled(NamedTuple):
    """One request's token; logprob and top are None where none were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] | None = None
    """The likeliest tokens and their logprobs, best first; impossible ones are left out."""


class SamplingError(RuntimeError):
    """The logits of one request allow no token; the message says why. The others of the batch are well."""


def explain(peak: float, state: SamplingState) -> SamplingError:
    """Why nothing can be drawn where the largest logit is `peak`."""
    if peak == float("-inf"):
        return SamplingError(f"token {state.generated}: every token is barred, so none can be drawn")
    what = "NaN" if peak != peak else "infinite"
    return SamplingError(
        f"token {state.generated}: the model's logits hold a value that is {what}; "
        "try dtype float32, or look at the weights"
    )
