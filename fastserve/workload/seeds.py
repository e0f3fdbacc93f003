"""What a seed of a run takes: a synthetic workload is drawn anew, a recorded trace is resampled.

A SeedSource says which requests a seed has, in words for the reader how they came about, and how many independent
samples there are behind so many seeds. Simulator, `ab`, `bench` and experiments ask it; docs/statistics.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from fastserve.sched.checks import one_of
from fastserve.workload import programs
from fastserve.workload.agents import PREFIX, Agents
from fastserve.workload.errors import TraceError
from fastserve.workload.seed import seed_sequence
from fastserve.workload.synthesis import Synthesis
from fastserve.workload.trace import NS, Trace

RESAMPLES: Final = ("blocks", "windows", "pairs")
"""How seeds of a recorded trace come about; the first is the default. See Recorded."""

ONE_OF_THE_TWO: Final = "give a trace or a synthetic workload (--synth), one of the two"

SHORTEST: Final = 64
"""Requests of a trace that has four blocks: of fewer, a bootstrap says nothing."""

FEWEST: Final = 10
"""Programs of a trace of which a bootstrap says something."""


class SeedSource(Protocol):
    """A workload from which each seed takes its requests."""

    @property
    def recipe(self) -> Synthesis | Agents | None: ...  # of a synthetic one
    @property
    def how(self) -> str: ...  # "drawn", or one of RESAMPLES
    @property
    def rate(self) -> float: ...  # requests/s of the whole workload; 0.0 where there is none, infinite for a burst
    @property
    def jobs(self) -> int: ...  # requests of a seed
    @property
    def words(self) -> str: ...  # what a seed takes, a clause for the line under a table

    def trace(self, seed: int) -> Trace: ...  # the same for the same seed; raises TraceError
    def at_rate(self, rate: float) -> SeedSource: ...  # requests/s
    def typical(self) -> Trace: ...  # to measure with what a machine sustains
    def samples(self, seeds: int) -> int | None: ...  # behind seeds 0 to seeds - 1, see paired_ratio(); 0: too few


@dataclass(frozen=True, slots=True)
class Drawn:
    """Each seed is a draw of its own."""

    recipe: Synthesis | Agents

    @property
    def how(self) -> str:
        return "drawn"

    @property
    def words(self) -> str:
        return "each seed draws arrivals and requests anew"

    @property
    def rate(self) -> float:
        return self.recipe.rate or 0.0

    @property
    def jobs(self) -> int:
        return self.recipe.n if isinstance(self.recipe, Synthesis) else len(self.recipe.trace(0))

    def trace(self, seed: int) -> Trace:
        return self.recipe.trace(seed)

    def at_rate(self, rate: float) -> Drawn:
        return Drawn(self.recipe.at_rate(rate))

    def typical(self) -> Trace:
        return self.recipe.typical()

    def samples(self, seeds: int) -> int | None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recorded trace. how:

    blocks   seed 0 is the trace; any other puts as many requests together from blocks of `block` successive ones, each
             with the gap before it, that start anywhere (circular block bootstrap over time): it keeps bursts that are
             shorter than a block. All are resamples of one sample.
    windows  each seed is a window of `rows` successive requests (None: the trace is divided among the seeds), spread
             evenly from the first to the last. They are independent samples as far as they do not overlap.
    pairs    re-pairing: seed 0 is the trace; any other has the same arrivals, the requests behind them permuted.

    Where requests wait for one another, all three take whole programs: blocks draws them with replacement, each with
    the gap before its start; windows are successive programs; pairs permutes them over their starts.
    """

    recorded: Trace
    how: str = RESAMPLES[0]
    rows: int | None = None
    seeds: int = 1
    """of windows: how many there are"""

    @property
    def recipe(self) -> None:
        return None

    def __post_init__(self) -> None:
        one_of("resample", self.how, RESAMPLES)
        if self.rows is not None and self.rows < 1:
            raise TraceError(f"cannot take the first {self.rows} requests; ask for at least 1")

    @property
    def sessions(self) -> bool:
        return self.recorded.after is not None

    @property
    def rate(self) -> float:
        return self.recorded.rate

    @property
    def jobs(self) -> int:
        if self.sessions:
            return len(self.trace(0))
        return self.size if self.how == "windows" else len(self.recorded)

    @property
    def words(self) -> str:
        if self.sessions:
            return self._words_on_programs
        n = len(self.recorded)
        if self.how == "pairs":
            return (
                "seed 0 is the trace, the others re-pair it: the same arrivals, the requests behind them permuted, "
                "which says nothing of other traffic"
            )
        if self.how == "blocks":
            few = "" if n >= SHORTEST else f"; an interval takes a trace of {SHORTEST} requests or more"
            return (
                f"seed 0 is the trace, the others draw it anew in blocks of {self.block:,} successive requests "
                f"(block bootstrap); a longer trace narrows an interval, more seeds do not{few}"
            )
        apart = n // self.size
        overlap = f"; they overlap, no more than {apart} fit side by side" if apart < self.seeds else ""
        return f"each seed is another window, {self.size:,} successive requests of {n:,}{overlap}"

    @property
    def _words_on_programs(self) -> str:
        n = self.units
        if self.how == "pairs":
            return "seed 0 is the trace, the others permute its programs over their starts"
        if self.how == "blocks":
            few = "" if n >= FEWEST else f"; an interval takes a trace of {FEWEST} programs or more"
            return f"seed 0 is the trace, the others draw its {n:,} programs anew, with replacement{few}"
        apart = n // self.size
        overlap = f"; they overlap, no more than {apart} fit side by side" if apart < self.seeds else ""
        return f"each seed is another window, {self.size:,} successive programs of {n:,}{overlap}"

    @property
    def units(self) -> int:
        """What is resampled: programs where requests wait for one another, else requests."""
        return len(programs.groups(self.recorded)) if self.sessions else len(self.recorded)

    @property
    def block(self) -> int:
        """n^(2/3) requests: a busy period fits in, and a thousand requests have ten of them."""
        length: float = len(self.recorded) ** (2 / 3)
        return max(1, round(length))

    @property
    def size(self) -> int:
        """Requests of a window, or programs: as many as have `rows` requests in the mean."""
        n = self.units
        rows = self.rows
        if rows is not None:
            rows = max(1, round(rows * n / len(self.recorded)))
        return max(1, n // self.seeds) if rows is None else min(n, rows)

    def trace(self, seed: int) -> Trace:
        if self.how == "pairs":
            return programs.permuted(self.recorded, seed) if self.sessions else self.recorded.repaired(seed)
        if self.how == "windows":
            spare = self.units - self.size
            first = seed * spare // max(1, self.seeds - 1)
            if not 0 <= first <= spare:
                raise TraceError(f"seed {seed}: there are {self.seeds} windows, 0 to {self.seeds - 1}")
            if self.sessions:
                return programs.successive(self.recorded, first, self.size)
            return self.recorded.take(np.arange(first, first + self.size))
        if self.sessions:
            return programs.drawn(self.recorded, seed)
        return self.recorded if seed == 0 else _of_blocks(self.recorded, self.block, seed)

    def at_rate(self, rate: float) -> Recorded:
        return replace(self, recorded=self.recorded.with_rate(rate))

    def typical(self) -> Trace:
        return self.recorded

    def samples(self, seeds: int) -> int | None:
        if self.how == "windows":
            apart = self.units // self.size
            return None if apart >= seeds else 0 if apart == 1 else apart
        if self.how == "blocks":
            return 1 if self.units >= (FEWEST if self.sessions else SHORTEST) else 0
        return None


def recipe_of(text: str) -> Synthesis | Agents:
    """A synthetic workload from its recipe, of agents where it begins with that word. Raises TraceError."""
    return Agents.parse(text) if text.partition(":")[0].strip() == PREFIX else Synthesis.parse(text)


def source_of(
    trace: Trace | None,
    synth: str | Synthesis | Agents | None = None,
    *,
    resample: str = RESAMPLES[0],
    num_requests: int | None = None,
    seeds: int = 1,
) -> SeedSource:
    """From a trace or a synthetic workload, whichever is given. num_requests: the first so many, or of each window.

    Raises ValueError for both or neither; TraceError.
    """
    if (trace is None) is (synth is None):
        raise ValueError(ONE_OF_THE_TWO)
    if synth is not None:
        recipe = recipe_of(synth) if isinstance(synth, str) else synth
        if num_requests is None:
            return Drawn(recipe)
        if isinstance(recipe, Agents):
            raise TraceError("synthetic agents have programs=N, not a number of requests")
        return Drawn(replace(recipe, n=num_requests))
    assert trace is not None
    if resample == "windows":
        return Recorded(trace, resample, num_requests, seeds)
    return Recorded(trace if num_requests is None else trace.head(num_requests), resample)


def _of_blocks(trace: Trace, block: int, seed: int) -> Trace:
    """As many requests, by blocks that start anywhere and wrap around; the first request's gap is the mean one."""
    n = len(trace)
    rng = np.random.default_rng(seed_sequence(seed))
    starts = rng.integers(n, size=-(-n // block))
    rows = ((starts[:, None] + np.arange(block)) % n).reshape(-1)[:n]
    mean = trace.span // (n - 1) if n > 1 else NS
    gaps = np.diff(trace.arrival, prepend=-mean)[rows]
    gaps[0] = 0
    return replace(trace.take(rows, rebase=False), arrival=np.cumsum(gaps))
