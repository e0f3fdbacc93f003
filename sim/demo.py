"""python -m sim.demo (`make demo`): four policies on two workloads, one that skip-join MLFQ is for and one that it is
not, and why; each figure, in the sentences too, is computed from the runs.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.columns import Columns
from fastserve.metrics.intervals import Ratio
from sim.replay import Result, replay
from sim.report.columns import RATIO
from sim.report.layout import WIDTH, aligned, average, number
from sim.report.pairs import jct_ratio, mark
from sim.report.table import by_label, request_rows

POLICIES = ("fcfs", "mlfq", "sj-mlfq", "srpt")
BASE, CANDIDATE = "fcfs", "sj-mlfq"
SLOTS, LOAD, SEEDS = 8, 0.8, 4  # from four seeds on there are intervals
SHOWN = ("mean_jct_s", "p50_jct_s", "p99_jct_s", "mean_s_per_token", "mean_ttft_s", "preemptions_per_job", RATIO)
LONG = 0.1  # of the requests, those with the longest time alone


class Workload(NamedTuple):
    title: str
    synth: str


WORKLOADS = (
    Workload(
        "Bursts of requests; most answers are short, a few very long",
        "n=1000,arrivals=onoff:on=10,off=30,prompt=lognormal:4,0.6,16,512,output=lognormal:3,1.8,2,3000",
    ),
    Workload(
        "A steady stream; lengths as in Azure's conversations of 2023",
        "n=1000,lengths=profile:azure-conv-2023",
    ),
)


class Why(NamedTuple):
    """Means over the seeds. share: of the work, of the longest tenth. held: places that it has under BASE while one of
    the shorter half waits. waits, short, long: s that one of the shorter half waits for its place, its JCT, and that of
    the longest tenth, under BASE and CANDIDATE. preemptions, between: of a request under CANDIDATE, and s
    that it waits between its turns, all together.
    """

    share: float
    held: float
    waits: tuple[float, float]
    short: tuple[float, float]
    long: tuple[float, float]
    preemptions: float
    between: float


def main() -> int:
    """Prints the story."""
    intro = (
        f"Four policies, two workloads, one modelled machine: OPT-13B on an A100, {SLOTS} requests at once, at "
        f"{LOAD:.0%} of the rate that first-come-first-served (fcfs) just sustains. JCT is the time from a request's "
        f"arrival to its last token; srpt knows how long each answer will be, the others do not. Figures are means "
        f"over {SEEDS} draws of 1,000 requests; the last column is the mean JCT of fcfs over the row's, with its 95% "
        "interval: above 1 the row is better."
    )
    print(textwrap.fill(intro, WIDTH))
    for n, workload in enumerate(WORKLOADS, start=1):
        print(f"\n{n}. {workload.title}\n", flush=True)
        result = replay(synth=workload.synth, policy=list(POLICIES), seeds=SEEDS, max_batch=SLOTS, load=LOAD)
        if result.interrupted:
            print("interrupted", file=sys.stderr)
            return 130
        print("\n".join(told(result)), flush=True)
    print("\n".join(onward()))
    return 0


def told(result: Result) -> Iterator[str]:
    """Lines: the table, whether the candidate wins, and why."""
    groups = by_label(result.runs)
    yield from aligned(request_rows(groups, result.settings, SHOWN))
    for label, group in groups.items():
        if text := mark(group):
            yield from textwrap.wrap(f"* {label}: {text}", WIDTH, subsequent_indent="  ")
    ratio = jct_ratio(groups[BASE], groups[CANDIDATE], result.settings)
    pairs = [(dict(one.records), dict(two.records)) for one, two in zip(groups[BASE], groups[CANDIDATE], strict=True)]
    tokens = [average(groups[label], "mean_s_per_token", result.settings) or 0.0 for label in (BASE, CANDIDATE)]
    also = still(*tokens) if ratio is not None and ratio.mean < 1 else ""
    yield ""
    yield from textwrap.wrap(f"{verdict(ratio)} Why: {because(mean([why(*pair) for pair in pairs]))}{also}", WIDTH)


def verdict(ratio: Ratio | None) -> str:
    """Of the ratio of mean completion times, the base's over the candidate's."""
    if ratio is None:
        return f"{CANDIDATE} cannot be compared with {BASE} here."
    span = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        return f"{CANDIDATE} neither wins nor loses for sure: the ratio is {ratio.mean:.2f}{span}."
    return f"Skip-join MLFQ ({CANDIDATE}) {'wins' if ratio.mean > 1 else 'loses'}: the ratio is {ratio.mean:.2f}{span}."


def why(base: Columns, candidate: Columns) -> Why:
    """base, candidate: records of the same requests."""
    base, candidate = (_by_id(records) for records in (base, candidate))
    order = np.argsort(base["alone"], kind="stable")
    n = len(order)
    short, long = order[: n // 2], order[n - round(LONG * n) :]
    begun = base["arrival"] + base["queued"]
    waiting = zip(base["arrival"][short], begun[short], strict=True)
    waited = float(np.nansum(base["queued"][short]))
    held = sum(
        [float(np.clip(np.minimum(base["end"][long], stop) - np.maximum(begun[long], start), 0, None).sum())
         for start, stop in waiting if stop > start]
    )  # fmt: skip
    both = (base, candidate)
    return Why(
        share=float(base["alone"][long].sum() / base["alone"].sum()),
        held=held / waited if waited else 0.0,
        waits=_of(both, "queued", short),
        short=_of(both, "jct_from_arrival", short),
        long=_of(both, "jct_from_arrival", long),
        preemptions=float(candidate["preemptions"].mean()),
        between=float(np.nanmean(candidate["preempted"])),
    )


def mean(found: Sequence[Why]) -> Why:
    """Field by field."""
    return Why(*[_mean([getattr(one, name) for one in found]) for name in Why._fields])


def because(facts: Why) -> str:
    """One sentence."""
    whole = f"the longest tenth of the requests is {facts.share:.0%} of the work"
    held = (
        f"under {BASE} it holds {facts.held:.1f} of the {SLOTS} places while a request of the shorter half waits for "
        f"one, {number(facts.waits[0])} s on average"
    )
    then = f"the shorter half ends after {_instead(facts.short)}, the longest tenth after {_instead(facts.long)}"
    if facts.share >= 0.5:
        return f"{whole}, and {held}; under {CANDIDATE} that wait is {number(facts.waits[1])} s, so that {then}."
    return (
        f"{whole} only; {held}, so that there is little to be gained by passing it, and {CANDIDATE} takes turns among "
        f"requests of like length: each is preempted {facts.preemptions:.1f} times and waits {number(facts.between)} s "
        f"in all between its turns; {then}."
    )


def still(base: float, candidate: float) -> str:
    """Of means of s per token: one sentence where the candidate has the smaller."""
    if candidate >= base:
        return ""
    return (
        f" By time per output token, the measure of the FastServe paper, it is ahead all the same: "
        f"{number(candidate)} s against {number(base)} s."
    )


def onward() -> Iterator[str]:
    """What to try next."""
    run = ".venv/bin/python -m sim traces/azure-conv-like.jsonl --policy fcfs --policy sj-mlfq --load 0.8"
    yield "\nNext: the same from a trace, with every setting told, and its flags\n"
    yield f"  {run}"
    for flag, what in (
        ("--explain differs", "the life of the request in which the two differ most"),
        ("--report page.html", "a page: curves, and the schedules to play, pause and compare"),
        ("--timeline t.json", "slots, queues and copies, for ui.perfetto.dev"),
        ("--policy ./mine.py:Mine", "a policy of your own: README.md writes one in two minutes"),
    ):
        yield f"      {flag:<24} {what}"
    yield ""
    yield f"or from the two workloads above, with --max-batch {SLOTS} --seeds {SEEDS}, and instead of the trace --synth"
    for workload in WORKLOADS:
        yield f"  {workload.synth}"


def _by_id(records: Columns) -> Columns:
    order = np.argsort(records["id"])
    return {name: column[order] for name, column in records.items()}


def _of(both: Sequence[Columns], column: str, rows: NDArray[np.int64]) -> tuple[float, float]:
    one, two = (float(np.nanmean(records[column][rows])) for records in both)
    return one, two


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of pairs."""
    found = np.mean(values, axis=0)
    return tuple(found.tolist()) if found.ndim else float(found)


def _instead(times: tuple[float, float]) -> str:
    base, candidate = times
    return f"{number(candidate)} s instead of {number(base)} s"


if __name__ == "__main__":
    sys.exit(main())
