"""Synthetic traces: an arrival process, distributions of lengths and of what else requests carry, a seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from fastserve.workload.arrivals import PROCESSES, arrival_times
from fastserve.workload.attributes import INNER as IN_ATTRIBUTES
from fastserve.workload.attributes import Attributes
from fastserve.workload.errors import TraceError
from fastserve.workload.lengths import DISTRIBUTIONS, draw_lengths
from fastserve.workload.parts import number, pairs
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import Trace

OTHER_NAMES: Final = {"num_requests": "n", "num_prompts": "n", "request_rate": "rate"}
"""What the flags of `sim.trace synthesise` are called -> key."""

INNER: Final = IN_ATTRIBUTES.union(*PROCESSES.values(), *DISTRIBUTIONS.values())
"""Keys within a recipe, such as cv in gamma:cv=4."""

CALIBRATION: Final = 2000
"""Requests on which what a machine sustains is measured (sim.sustained); of a synthetic workload a draw of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What a synthetic trace is drawn from, all but its seed; arrivals.py, lengths.py and attributes.py say what the
    recipes mean."""

    n: int = 1000
    """requests"""
    rate: float | None = None
    """requests/s in the long run; None: still to be set"""
    arrivals: str = "poisson"
    lengths: str = "profile:azure-conv-2023"
    prompt: str | None = None
    """distribution of prompt lengths, if another"""
    output: str | None = None
    """distribution of output lengths, if another"""
    priorities: str | None = None
    clients: str | None = None
    classes: str | None = None

    @classmethod
    def parse(cls, text: str) -> Synthesis:
        """From n=1000,rate=2,arrivals=gamma:cv=4,lengths=profile:azure-conv-2023; any order, any part left out.

        Commas within a recipe need no care: lengths=lognormal:5,1,1,1024,rate=2. Raises TraceError, also for a recipe
        from which nothing can be drawn.
        """
        try:
            given: dict[str, Any] = dict(pairs(text, [field.name for field in fields(cls)], INNER, OTHER_NAMES))
            for key, kind, what in (("n", int, "a whole number"), ("rate", float, "a number of requests/s")):
                if key in given:
                    given[key] = number(given[key], kind, key, what)
        except ValueError as error:
            raise TraceError(f"--synth: {error}") from None
        recipe = cls(**given)
        replace(recipe, n=min(recipe.n, 1), rate=1.0 if recipe.rate is None else recipe.rate).trace(0)
        return recipe

    def trace(self, seed: int) -> Trace:
        """The draw of this seed. Raises TraceError."""
        if self.rate is None:
            raise TraceError("the synthetic workload has no rate: give rate=R (requests/s), or --rate or --load")
        return synthesise(
            self.n,
            rate=self.rate,
            arrivals=self.arrivals,
            lengths=self.lengths,
            prompt=self.prompt,
            output=self.output,
            priorities=self.priorities,
            clients=self.clients,
            classes=self.classes,
            seed=seed,
        )

    def typical(self) -> Trace:
        """A draw of its lengths that is large enough to measure with what a machine sustains."""
        return replace(self, n=CALIBRATION, rate=1.0, arrivals="poisson").trace(0)

    def at_rate(self, rate: float) -> Synthesis:
        """requests/s"""
        return replace(self, rate=rate)

    def __str__(self) -> str:
        """As parse() reads it."""
        parts = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return ",".join(f"{key}={value:g}" if key == "rate" else f"{key}={value}" for key, value in parts if value)


def synthesise(
    n: int,
    *,
    rate: float,
    arrivals: str = "poisson",
    lengths: str = "profile:azure-conv-2023",
    prompt: str | None = None,
    output: str | None = None,
    priorities: str | None = None,
    clients: str | None = None,
    classes: str | None = None,
    seed: int = 0,
) -> Trace:
    """n requests at `rate` requests/s in the long run; arrivals.py, lengths.py and attributes.py say what the recipes
    mean.

    `prompt` and `output` override the distribution `lengths` for one side. Arrivals, prompts, outputs, priorities,
    clients and classes have their own random streams: to give or change the spec of one leaves the others as they were
    (common random numbers). Raises TraceError.
    """
    root = seed_sequence(seed)
    times, tokens = root.spawn(2)
    others = Attributes(priorities, clients, classes)
    arrival = arrival_times(arrivals, n, rate, times)
    prompts, outputs = draw_lengths(n, lengths, tokens, prompt, output)
    laws = {"prompt": prompt, "output": output} | asdict(others)
    sides = "".join(f" {key}={law}" for key, law in laws.items() if law)
    recipe = f"arrivals={arrivals} rate={rate:g} lengths={lengths}{sides} n={n} seed={seed}"
    drawn = others.drawn(n, root)
    return Trace(name="synthetic", source=recipe, arrival=arrival, prompt=prompts, output=outputs, **drawn)
