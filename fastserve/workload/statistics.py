"""describe(): statistics of a trace: rate, burstiness, lengths, their correlation, who asks and what is promised."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from fastserve.workload.block_ids import BlockIds
from fastserve.workload.content import content
from fastserve.workload.programs import groups
from fastserve.workload.trace import NS, IntArray, Trace


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens; percentiles are linear between neighbours."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds; percentiles are linear between neighbours."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Programs:
    """Of a trace whose requests wait for one another; a request that names no program is one by itself."""

    turns: Lengths
    """Requests of a program."""
    first_prompt: Lengths
    """Prompt tokens of requests that wait for none."""
    growth: Lengths | None
    """Prompt tokens beyond those of the request before, where one alone goes on from it and they are more; None without
    any."""
    shrinking: float | None
    """Share of such requests whose prompt is shorter than the one before."""
    think: Times | None
    """From the end of what a request waits for to its arrival; None where none waits."""
    forks: int
    """Requests for which several wait."""
    joins: int
    """Requests that wait for several."""
    tools: dict[str, int]
    """Answers that call a tool, by its name, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Promised:
    """Of the requests of one class of service. Objectives in seconds: the least and the largest; None where none has
    one."""

    n: int
    ttft_s: tuple[float, float] | None
    tpot_s: tuple[float, float] | None
    e2e_s: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Description:
    n: int
    span_s: float
    rate_rps: float | None
    """(n - 1) / span; None if all arrive together."""
    gap_cv: float | None
    """Standard deviation over mean of the gaps; None if all arrive together."""
    dispersion_10s: float | None
    """Variance over mean of the arrivals in full bins of 10 s: 1 for Poisson; None for < 2 bins."""
    peak_60s: float | None
    """Arrivals in the busiest full 60 s bin over the mean of the bins; None for < 2 bins."""
    prompt: Lengths
    output: Lengths
    rank_correlation: float | None
    """Spearman's, of prompt and output; None if one of them is constant."""
    clients: dict[str, int] | None
    """Requests per client, the largest first; those that name none are in `without_client`."""
    programs: int | None
    """Distinct ones, the nameless not counted."""
    block_ids: int | None
    """Distinct prompt blocks."""
    dropped: dict[str, int]
    digest: str
    without_client: int = 0
    """Requests of a trace with a column of clients that name none."""
    without_program: int = 0
    sessions: Programs | None = None
    """None where no request waits for another."""
    unlimited_hit_rate: float | None = None
    """Share of the prompt tokens that an unlimited prefix cache would find, were each request answered before the next
    one comes; in whole blocks of block ids, and None without those."""
    peak_3600s: float | None = None
    """As peak_60s, of full hours."""
    priorities: dict[int, int] | None = None
    """Requests per priority, the most urgent first; None where the trace has none."""
    classes: dict[str, Promised] | None = None
    """By class of service, the largest first; "" for requests of no class. None where the trace has neither classes nor
    objectives."""


def describe(trace: Trace) -> Description:
    shared = content(trace, trace.block_size)
    gaps = np.diff(trace.arrival)
    tens = _bins(trace.arrival, 10)
    clients = None if trace.client is None else dict(Counter(trace.client).most_common())
    nameless = 0 if clients is None else clients.pop("", 0)
    spread = len(trace) > 1 and trace.span > 0
    return Description(
        n=len(trace),
        span_s=trace.span / NS,
        rate_rps=trace.rate if spread else None,
        gap_cv=float(gaps.std() / gaps.mean()) if spread else None,
        dispersion_10s=float(tens.var() / tens.mean()) if len(tens) > 1 and tens.any() else None,
        peak_60s=_peak(trace.arrival, 60),
        prompt=_lengths(trace.prompt),
        output=_lengths(trace.output),
        rank_correlation=rank_correlation(trace.prompt, trace.output),
        clients=clients,
        programs=None if trace.program is None else len(set(trace.program) - {""}),
        block_ids=None if trace.hash_ids is None else _distinct(trace, trace.hash_ids),
        dropped=dict(trace.dropped),
        digest=trace.digest(),
        without_client=nameless,
        without_program=0 if trace.program is None else trace.program.count(""),
        sessions=_programs(trace),
        unlimited_hit_rate=None if shared is None else shared.hit_rate(trace),
        peak_3600s=_peak(trace.arrival, 3600),
        priorities=None if trace.priority is None else dict(sorted(Counter(trace.priority.tolist()).items())),
        classes=_classes(trace),
    )


def _classes(trace: Trace) -> dict[str, Promised] | None:
    columns = (trace.ttft_slo, trace.tpot_slo, trace.e2e_slo)
    if trace.slo_class is None and all(column is None or not column.any() for column in columns):
        return None
    names = np.array(trace.slo_class or [""] * len(trace), "O")
    found = {}
    for name, n in Counter(names.tolist()).most_common():
        of = [None if column is None else column[names == name] for column in columns]
        spans = [None if column is None else _span(column[column > 0]) for column in of]
        found[name] = Promised(n, *spans)
    return found


def _span(ns: IntArray) -> tuple[float, float] | None:
    return (int(ns.min()) / NS, int(ns.max()) / NS) if len(ns) else None


def _peak(arrival: IntArray, seconds: int) -> float | None:
    bins = _bins(arrival, seconds)
    return float(bins.max() / bins.mean()) if len(bins) > 1 and bins.any() else None


def _programs(trace: Trace) -> Programs | None:
    if trace.after is None or trace.think is None:
        return None
    after = trace.after
    followers = Counter(other for before in after for other in before)
    single = np.array([row for row, before in enumerate(after) if len(before) == 1 == followers[before[0]]], np.int64)
    more = trace.prompt[single] - trace.prompt[[after[row][0] for row in single.tolist()]]
    waits = np.array([bool(before) for before in after])
    tools = Counter(trace.tool or ())
    tools.pop("", None)
    return Programs(
        turns=_lengths(np.array([len(rows) for rows in groups(trace)])),
        first_prompt=_lengths(trace.prompt[~waits]),
        growth=_lengths(more[more > 0]) if (more > 0).any() else None,
        shrinking=float((more < 0).mean()) if len(more) else None,
        think=_times(trace.think[waits]) if waits.any() else None,
        forks=sum(n > 1 for n in followers.values()),
        joins=sum(len(before) > 1 for before in after),
        tools=dict(tools.most_common()),
    )


def _distinct(trace: Trace, ids: Sequence[Sequence[int]]) -> int:
    """Block ids, those of different scopes told apart."""
    by_scope: dict[str, set[int]] = defaultdict(set)
    for row, scope in enumerate(trace.scope or repeat("", len(trace))):
        by_scope[scope].update(ids.fresh(row) if isinstance(ids, BlockIds) else ids[row])
    return sum(map(len, by_scope.values()))


def rank_correlation(a: IntArray, b: IntArray) -> float | None:
    """Spearman's coefficient with mid-ranks for ties; None if a or b is constant."""
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: IntArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    middle: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (last - (count - 1) / 2)[inverse]
    return middle


def _bins(arrival: IntArray, seconds: int) -> IntArray:
    """Arrivals per full bin; empty if there is none."""
    full = int(arrival[-1]) // (seconds * NS)
    index = arrival // (seconds * NS)
    return np.bincount(index[index < full], minlength=full).astype(np.int64)


def _lengths(tokens: IntArray) -> Lengths:
    p50, p90, p99 = (float(q) for q in np.percentile(tokens, (50, 90, 99)))
    return Lengths(float(tokens.mean()), p50, p90, p99, int(tokens.max()))


def _times(ns: IntArray) -> Times:
    p50, p90, p99 = (float(q) / NS for q in np.percentile(ns, (50, 90, 99)))
    return Times(float(ns.mean()) / NS, p50, p90, p99, int(ns.max()) / NS)
