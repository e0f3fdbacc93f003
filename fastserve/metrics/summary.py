"""Metrics from records: a flat summary per run, ratios between runs, the largest rate that meets an objective.

Records come as columns: equally long numpy arrays, one row per job, all times float seconds. Units stand in the keys of
a summary. A measure that has no value is None, never NaN.

Who counts:

* Each job is one of completed, rejected, truncated, cancelled and unfinished (metrics.finish); they sum to `n`.
* Completed jobs and unfinished ones make up all latency figures. An unfinished job is censored, never dropped: its
  `jct_from_arrival` is how long it has been in the system when observation ended, and stands for its time to first
  token too where it has had none. A summary with `unfinished` > 0 shows lower bounds.
* Rejected, truncated and cancelled jobs are counted but stand outside all latency figures: a job that was cut short is
  not a job that was quick.
* Percentiles interpolate linearly between order statistics (numpy's default).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import OUTCOMES, is_outcome
from fastserve.metrics.intervals import Ratio, paired_ratio
from fastserve.metrics.saturation import Columns, Floats, area_until, covered, left_at, saturated
from fastserve.metrics.slo import Slo, goodput

Summary = dict[str, float | int | None]

__all__ = [
    "Columns",
    "Ratio",
    "Slo",
    "Summary",
    "jain",
    "largest_rate",
    "paired_ratio",
    "saturated",
    "summarise",
    "with_not_arrived",
]

GIB = 2.0**30

# The service of a client in tokens, an output token counting double: the weights of VTC (OSDI'24, section 5).
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0


def summarise(
    columns: Columns,
    *,
    horizon_s: float,
    warmup_s: float = 0.0,
    slo: Slo | None = None,
    window: tuple[float, float] | None = None,
    start_s: float | None = None,
) -> Summary:
    """Every measure of one run, flat, with units in the keys.

    horizon_s: absolute time at which observation ended; unfinished jobs are censored there.
    warmup_s: jobs that arrive this soon after the first one are left out of all but the counting of the system's state.
    slo: objectives of jobs whose own are NaN. Without any objective the goodput is None.

    Rates (`offered_rps`, `throughput_rps`, `goodput_rps`, `output_tokens_per_s`) share one window, of `rate_window_s`:
    from the first arrival, or the end of the warm-up, to the last end (or the horizon, if somebody is unfinished). Its
    last `rate_drain_s` are after the last arrival. `arrival_rps` is of the arrivals alone: how fast they came.
    window: s, another one, as of a closed loop, in which the beginning and the end are not what is between.
    start_s: absolute time at which the warm-up ends, where `columns` are some of the jobs of a run (metrics.groups).
    """
    start = _start(columns, warmup_s) if start_s is None else start_s
    measured = columns["arrival"] >= start
    jobs = _rows(columns, measured)
    are = {outcome: is_outcome(jobs["finish"], outcome) for outcome in OUTCOMES}
    counted = _rows(jobs, are["completed"] | are["unfinished"])

    summary: Summary = {"n": len(jobs["finish"])}
    summary |= {outcome: int(np.count_nonzero(rows)) for outcome, rows in are.items()}
    summary |= _distribution("jct_s", counted["jct_from_arrival"])
    summary |= _distribution("ttft_s", _censored_ttft(counted))
    summary |= _distribution("tpot_s", counted["tpot_excl_first"])
    summary |= _distribution("s_per_token", counted["s_per_token"])
    summary |= _distribution("slowdown", counted["slowdown"])
    summary |= _distribution("largest_gap_s", counted["largest_gap"])
    for name in ("queued", "preempted", "stalled"):
        summary[f"mean_{name}_s"] = _mean(counted[name])
    held = counted.get("held_s", counted["queued"] * math.nan)  # older records do not tell
    summary["held_mean_s"], summary["held_max_s"] = _mean(held), _largest(held)
    summary["preemptions_per_job"] = _mean(counted["preemptions"])
    summary |= _copies(jobs)
    summary |= _guesses(jobs)
    summary |= _rates(columns, start, horizon_s, window)
    summary |= goodput(jobs, slo or Slo(), summary["rate_window_s"])
    summary["jain_index"] = _client_fairness(jobs, horizon_s)
    summary["saturated"] = saturated(columns, horizon_s=horizon_s)
    return summary


def rate_window(columns: Columns, *, horizon_s: float, warmup_s: float = 0.0) -> tuple[float, float]:
    """s: the window of all rates of an open run, see summarise()."""
    arrival = columns["arrival"]
    if not len(arrival):
        return 0.0, 0.0
    latest = max(float(left_at(columns, horizon_s).max()), float(arrival.max()))
    return _start(columns, warmup_s), latest


def with_not_arrived(summary: Summary, count: int) -> Summary:
    """Of a run that was stopped before so many jobs had come: they are unfinished, and in no other figure."""
    known = {key: int(summary[key] or 0) + count for key in ("n", "unfinished")}
    return summary | known | {"not_arrived": count}


def jain(shares: Sequence[float] | Floats) -> float | None:
    """Jain's fairness index (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything.

    None for no shares, or when nobody has anything.
    """
    x = np.asarray(shares, dtype=float)
    squares = float(np.sum(x * x))
    return float(np.sum(x)) ** 2 / (len(x) * squares) if squares > 0 else None


def largest_rate(
    measure: Callable[[float], float | None],
    slo: float,
    low: float,
    high: float,
    *,
    steps: int = 8,
    tolerance: float = 0.01,
) -> float | None:
    """The rate at which `measure` first rises above `slo`, within `tolerance` (relative), and still met there.

    A measure need not be monotone: normalised latency often falls again in an overload where only short jobs end. So
    `steps` rates from `low` to `high`, evenly spaced on a log scale, are tried upwards until one fails; the crossing is
    bisected between that one and the one before. None or NaN from `measure` (nothing ended) counts as above `slo`.

    Returns None when `low` fails already, and math.inf when nothing up to `high` fails.
    """
    if not 0 < low < high:
        raise ValueError(f"The rates to search must satisfy 0 < low < high, not low={low}, high={high}.")

    def meets(rate: float) -> bool:
        value = measure(rate)
        return value is not None and value <= slo

    if not meets(low):
        return None
    good = low
    for step in range(1, steps + 1):
        bad = high if step == steps else low * (high / low) ** (step / steps)
        if not meets(bad):
            break
        good = bad
    else:
        return math.inf
    while bad > good * (1 + tolerance):
        middle = math.sqrt(good * bad)
        if meets(middle):
            good = middle
        else:
            bad = middle
    return good


def _rows(columns: Columns, chosen: NDArray[np.bool_]) -> Columns:
    """The chosen rows; the very columns when that is all of them, for a million jobs should not be held twice."""
    return columns if chosen.all() else {name: column[chosen] for name, column in columns.items()}


def _start(columns: Columns, warmup_s: float) -> float:
    return float(columns["arrival"].min()) + warmup_s if len(columns["arrival"]) else 0.0


def _mean(values: NDArray[Any]) -> float | None:
    """Of the finite values: a job that never began has no time in the queue before it began."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _largest(values: NDArray[Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None


def _distribution(name: str, values: NDArray[Any]) -> Summary:
    """mean, p50, p95, p99 and max of the finite values; a job without a value (one token has no TPOT) has no part."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {f"{statistic}_{name}": None for statistic in ("mean", "p50", "p95", "p99", "max")}
    p50, p95, p99 = np.percentile(finite, (50, 95, 99))
    found = {"mean": finite.mean(), "p50": p50, "p95": p95, "p99": p99, "max": finite.max()}
    return {f"{statistic}_{name}": float(value) for statistic, value in found.items()}


def _censored_ttft(counted: Columns) -> Floats:
    waiting = np.isnan(counted["ttft"]) & (counted["finish"] == "unfinished")
    return np.where(waiting, counted["jct_from_arrival"], counted["ttft"])


def _guesses(jobs: Columns) -> Summary:
    """acceptance: share of the verified guesses that were right; None where nothing was guessed."""
    none = np.zeros(0, np.int64)  # older records, and those of other servers, do not tell
    drafted = int(np.sum(jobs.get("draft_tokens", none)))
    accepted = int(np.sum(jobs.get("accepted_tokens", none)))
    return {
        "draft_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance": accepted / drafted if drafted else None,
    }


def _copies(jobs: Columns) -> Summary:
    """What was found, recomputation and swapping, of jobs that have had a token.

    hit_rate: share of the prompts' tokens that were there when the job first joined; host_hit_rate: the part of it that
    was loaded from the host. evicted_share: of those that had been there and were not any more (`evicted_tokens`, which
    are among `recomputed_tokens`). recomputed_share: of all tokens computed: prompts without what was found, outputs,
    and what was computed again.
    """
    started = ~np.isnan(jobs["first_token"])
    again = int(np.sum(jobs["recomputed_tokens"]))
    found = jobs.get("cached_tokens")  # older records, and those of other servers, do not tell
    evicted = int(np.sum(jobs["evicted_tokens"])) if "evicted_tokens" in jobs else 0
    cached = 0 if found is None else int(np.sum(found[started]))
    loaded = int(np.sum(jobs["cached_host_tokens"][started])) if "cached_host_tokens" in jobs else 0
    prompts = int(np.sum(jobs["prompt_tokens"][started]))
    useful = prompts - cached - evicted + int(np.sum(jobs["output_tokens"]))
    return {
        "cached_tokens": cached,
        "hit_rate": cached / prompts if prompts and found is not None else None,
        "cached_host_tokens": loaded,
        "host_hit_rate": loaded / prompts if prompts and found is not None else None,
        "evicted_tokens": evicted,
        "evicted_share": evicted / prompts if prompts and found is not None else None,
        "recomputed_tokens": again,
        "recomputed_share": again / (again + useful) if again + useful else None,
        "swapped_out_gib": float(np.sum(jobs["swapped_out_bytes"])) / GIB,
        "swapped_in_gib": float(np.sum(jobs["swapped_in_bytes"])) / GIB,
    }


RATES = (
    "offered_rps", "throughput_rps", "output_tokens_per_s", "rate_window_s", "rate_drain_s", "arrival_rps",
    "makespan_s", "mean_in_system",
)  # fmt: skip
"""What _rates() finds, in this order."""


def _rates(columns: Columns, start: float, horizon_s: float, given: tuple[float, float] | None = None) -> Summary:
    """Rates over the window, jobs of the warm-up included: they too are served in it.

    The window ends with the last job and not with the last arrival: the jobs of a burst all end after that, and who
    counts what was finished before it has no throughput there, and a goodput above the capacity. A job's tokens count
    as delivered evenly between its first and its last one. Over a whole run `mean_in_system` times `makespan_s` is the
    sum of all residence times: Little's law, for whoever wants to check it. given: another window.
    """
    arrival, end, left = columns["arrival"], columns["end"], left_at(columns, horizon_s)
    if not len(arrival):
        return dict.fromkeys(RATES, None)
    last, latest = float(arrival.max()), max(float(left.max()), float(arrival.max()))
    start, stop = given or (start, latest)
    window = max(0.0, stop - start)
    completed = np.count_nonzero(is_outcome(columns["finish"], "completed") & (end >= start) & (end <= stop))
    first = columns["first_token"]
    begun = ~np.isnan(first)
    begin, finish, tokens = first[begun], left[begun], columns["output_tokens"][begun]
    length = finish - begin
    # A job whose tokens all came at one instant has no length: all of it falls inside the window or outside.
    inside = np.clip(np.minimum(finish, stop) - np.maximum(begin, start), 0.0, None)
    within = (begin >= start) & (begin <= stop)
    share = np.where(length > 0, inside / np.where(length > 0, length, 1.0), within)
    area = area_until(arrival, left, np.array([min(start, stop), stop]))
    offered = arrival[(arrival >= start) & (arrival <= stop)]
    span = float(offered.max() - offered.min()) if len(offered) else 0.0
    values = (
        len(offered) / window if window else None,
        completed / window if window else None,
        float(np.sum(share * tokens)) / window if window else None,
        window or None,
        max(0.0, stop - last) if window else None,
        (len(offered) - 1) / span if span > 0 else None,
        latest - float(arrival.min()),
        float(area[1] - area[0]) / window if window else None,
    )
    return dict(zip(RATES, values, strict=True))


def _client_fairness(jobs: Columns, horizon_s: float) -> float | None:
    """Jain's index over clients of x = service / time backlogged; None below two clients.

    Service: prompt tokens + 2 x output tokens of the jobs that began. Time backlogged: how long the client had at least
    one job in the system. Jobs that name no client are nobody's.
    """
    names = {name for name in jobs["client"] if name}
    if len(names) < 2:
        return None
    left = left_at(jobs, horizon_s)
    begun = ~np.isnan(jobs["first_token"])
    service = begun * (PROMPT_WEIGHT * jobs["prompt_tokens"] + OUTPUT_WEIGHT * jobs["output_tokens"])
    rows: dict[str, list[int]] = {name: [] for name in sorted(names)}
    for row, name in enumerate(jobs["client"]):
        if name:
            rows[name].append(row)
    shares = []
    for mine in rows.values():
        backlogged = covered(jobs["arrival"][mine], left[mine])
        shares.append(float(np.sum(service[mine])) / backlogged if backlogged > 0 else 0.0)
    return jain(shares)
