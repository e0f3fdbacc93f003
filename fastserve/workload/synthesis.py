"""Synthetic traces: an arrival process, a distribution of lengths, a seed."""

from __future__ import annotations

from fastserve.workload.arrivals import arrival_times
from fastserve.workload.lengths import draw_lengths
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import Trace


def synthesise(
    n: int,
    *,
    rate: float,
    arrivals: str = "poisson",
    lengths: str = "profile:azure-conv-2023",
    prompt: str | None = None,
    output: str | None = None,
    seed: int = 0,
) -> Trace:
    """n requests at `rate` requests/s in the long run; arrivals.py and lengths.py say what the recipes mean.

    `prompt` and `output` override the distribution `lengths` for one side. Arrivals, prompts and outputs have their own
    random streams: changing the spec of one leaves the others as they were (common random numbers). Raises TraceError.
    """
    times, tokens = seed_sequence(seed).spawn(2)
    arrival = arrival_times(arrivals, n, rate, times)
    prompts, outputs = draw_lengths(n, lengths, tokens, prompt, output)
    sides = "".join(f" {side}={law}" for side, law in (("prompt", prompt), ("output", output)) if law)
    recipe = f"arrivals={arrivals} rate={rate:g} lengths={lengths}{sides} n={n} seed={seed}"
    return Trace(name="synthetic", source=recipe, arrival=arrival, prompt=prompts, output=outputs)
