"""The gaps between tokens of all jobs of a run, pooled, from its iteration log: exact to a nanosecond or two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastserve.hardware import LatencyModel
from fastserve.observers.iterations import Stretch

Whole = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Gaps:
    """values: ns, ascending; counts: how many gaps of that length. Arrays of equal length."""

    values: Whole
    counts: Whole

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """s; nan without any gap."""
        return float((self.values / 1e9 * self.counts).sum() / self.n) if self.n else float("nan")

    def quantile(self, q: float) -> float:
        """s; between two gaps in proportion, as numpy's default does; nan without any gap."""
        if not 0 <= q <= 1:
            raise ValueError(f"quantile({q}): it must be in [0, 1]")
        if not self.n:
            return float("nan")
        place = q * (self.n - 1)
        below = int(place)
        ends = np.cumsum(self.counts)
        low, high = self.values[np.searchsorted(ends, [below, min(below + 1, self.n - 1)], side="right")]
        return float(low + (high - low) * (place - below)) / 1e9

    def __str__(self) -> str:
        if not self.n:
            return "no gaps between tokens"
        p50, p95, p99, most = [1e3 * self.quantile(q) for q in (0.5, 0.95, 0.99, 1.0)]
        return (
            f"{self.n:,} gaps between tokens: mean {1e3 * self.mean:.4g} ms, "
            f"p50 {p50:.4g}, p95 {p95:.4g}, p99 {p99:.4g}, max {most:.4g} ms"
        )


def gaps(log: Iterable[Stretch], latency: LatencyModel) -> Gaps:
    """Every gap between two consecutive tokens of one job, over all jobs.

    Jobs that decode side by side have the same gaps, so one value with a count stands for all of them; only a job that
    has just joined or completed a prefill has a gap of its own. latency: of the run; it says how long each iteration of
    a stretch took. Tokens of one uneven iteration come together, with no time between them. Takes time and memory
    proportional to the iterations.
    """
    values: list[int] = []
    counts: list[int] = []
    token_at = 0  # when the batch last decoded
    last: dict[int, int] = {}  # when a job had its last token, while that is not token_at
    rolling: set[int] = set()  # they decode whenever the batch does
    own: set[int] = set()  # of these, those whose last token is in `last`

    def note(gap: int, count: int) -> None:
        values.append(gap)
        counts.append(count)

    for row in log:
        for id in row.left:
            if id in rolling:
                rolling.remove(id)
                if id in own:
                    own.remove(id)
                else:
                    last[id] = token_at
        rolling.update(row.resumed)
        own.update(row.resumed)
        silent = {id for id, delta in row.extra if delta < 0}  # they fall out of step
        for id in silent & rolling - own:
            last[id] = token_at
            own.add(id)
        if row.batch:
            first = row.end
            if row.iterations > 1:
                first = row.start + row.stall + _ns(latency, 0, row)
            for id in own - silent:
                if id in last:  # else it has yet to have a token
                    note(first - last.pop(id), 1)
            if row.batch > len(own):
                note(first - token_at, row.batch - len(own))
            own &= silent
            for i in range(1, row.iterations):
                note(_ns(latency, i, row), row.batch)
            token_at = row.end
        for id in row.prefilled:
            if id not in silent:
                if id in last:
                    note(row.end - last[id], 1)
                last[id] = row.end
            rolling.add(id)
            own.add(id)
        together = sum([delta for _, delta in row.extra if delta > 0])
        if together:
            note(0, together)
        for id in row.ended:
            rolling.discard(id)
            own.discard(id)
            last.pop(id, None)
    unique, where = np.unique(np.array(values, np.int64), return_inverse=True)
    totals = np.zeros(len(unique), np.int64)
    np.add.at(totals, where, np.array(counts, np.int64))
    return Gaps(unique, totals)


def _ns(latency: LatencyModel, iteration: int, row: Stretch) -> int:
    """Of one iteration of a stretch, counted from 0. Where there are several, at most one prefill goes on."""
    tokens = row.prefill_tokens
    chunks = ((row.prefill_cached + iteration * tokens, tokens),) if tokens else ()
    return (latency.iteration_ps(row.batch, row.context + iteration * row.batch, chunks) + 500) // 1000
