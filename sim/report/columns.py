"""Columns that a table may have: every measure of a summary by its name, in groups, and those that are shown unasked.

`--show NAME[,NAME]` takes names and groups, in the order in which they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from fastserve.sched.checks import nearest

STATISTICS = ("mean", "p50", "p95", "p99", "max")
RATIO = "ratio"
"""The last column of the unasked tables: of mean completion times, paired by seed. It is no measure of one run."""

Headings: TypeAlias = Mapping[str, tuple[str, str]]


class Column(NamedTuple):
    """key: of the summary, or of settings. top, bottom: the two lines of its heading."""

    key: str
    top: str
    bottom: str


def _spread(name: str, words: str) -> dict[str, tuple[str, str]]:
    return {f"{statistic}_{name}": (statistic, words) for statistic in STATISTICS}


GROUPS: Final[Mapping[str, Headings]] = {
    "jct": _spread("jct_s", "JCT s"),
    "ttft": _spread("ttft_s", "TTFT s"),
    "tpot": _spread("tpot_s", "TPOT s"),
    "s_per_token": _spread("s_per_token", "s/token"),
    "slowdown": _spread("slowdown", "slowdown"),
    "gap": _spread("largest_gap_s", "gap s"),
    "waiting": {
        "mean_queued_s": ("queued", "mean s"), "mean_preempted_s": ("preempted", "mean s"),
        "mean_stalled_s": ("stalled", "mean s"), "held_mean_s": ("held", "mean s"), "held_max_s": ("held", "max s"),
    },
    "slo": {
        "mean_ttft_s": ("mean", "TTFT s"), "p99_ttft_s": ("p99", "TTFT s"), "mean_tpot_s": ("mean", "TPOT s"),
        "p99_tpot_s": ("p99", "TPOT s"), "goodput_rps": ("goodput", "req/s"), "slo_attainment": ("SLOs", "met"),
    },
    "kv": {
        "preemptions_per_job": ("preempt", "per job"), "swap_gib": ("swap", "GiB"),
        "swapped_out_gib": ("swap out", "GiB"), "swapped_in_gib": ("swap in", "GiB"),
        "recomputed_tokens": ("recomp.", "tokens"), "recomputed_share": ("recomp.", "share"),
        "hit_rate": ("hit", "rate"),
        "hit_rate_unlimited": ("hit rate", "unlimited"), "host_hit_rate": ("host", "hit rate"),
        "cached_tokens": ("cached", "tokens"), "cached_host_tokens": ("cached", "on host"),
        "evicted_tokens": ("evicted", "tokens"), "evicted_share": ("evicted", "share"),
    },
    "rates": {
        "throughput_rps": ("done", "req/s"), "goodput_rps": ("goodput", "req/s"), "offered_rps": ("offered", "req/s"),
        "arrival_rps": ("arrivals", "req/s"), "output_tokens_per_s": ("output", "tokens/s"),
        "rate_window_s": ("window", "s"), "rate_drain_s": ("drain", "s"), "makespan_s": ("makespan", "s"),
        "mean_in_system": ("in", "system"), "load": ("load", ""),
    },
    "jobs": {
        "n": ("jobs", ""), "completed": ("com-", "pleted"), "rejected": ("re-", "jected"),
        "truncated": ("trun-", "cated"), "cancelled": ("can-", "celled"), "unfinished": ("unfin-", "ished"),
        "not_arrived": ("not", "arrived"),
    },
    "fairness": {"jain_index": ("Jain's", "index")},
    "scheduling": {
        "plans": ("plans", ""), "iterations": ("iterations", ""), "scheduling_events": ("scheduling", "events"),
        "draft_tokens": ("guessed", "tokens"), "accepted_tokens": ("right", "guesses"),
        "acceptance": ("accept-", "ance"),
        "tokens_per_decode": ("tokens", "a decode"),
    },
    "cluster": {
        "utilisation": ("busy", "share"), "imbalance": ("busiest", "/ mean"), "resent": ("resent", "jobs"),
        "lost_tokens": ("lost", "tokens"),
    },
}  # fmt: skip
"""Of requests: group -> key of the summary -> the two lines of its heading."""

PROGRAMS: Final[Headings] = {
    "program_time_mean_s": ("mean", "time s"), "program_time_p50_s": ("p50", "time s"),
    "program_time_p95_s": ("p95", "time s"), "program_time_max_s": ("max", "time s"),
    "program_service_mean_s": ("service", "mean s"), "program_slowdown_mean": ("slow-", "down"),
    "stall_per_turn_mean_s": ("stall s", "per turn"), "programs_per_hour": ("programs", "an hour"),
    "programs_per_hour_whole": ("an hour,", "whole run"), "program_window_s": ("window", "s"),
    "at_work_mean": ("at work", "mean"), "ttft_first_turn_p50_s": ("1st turn", "p50"),
    "ttft_first_turn_p99_s": ("1st turn", "p99"), "ttft_first_turn_max_s": ("1st turn", "max"),
    "longest_wait_s": ("longest", "wait s"), "programs": ("programs", ""), "programs_completed": ("com-", "pleted"),
    "programs_abandoned": ("aban-", "doned"), "programs_unfinished": ("unfin-", "ished"),
    "abandoned_requests": ("never", "came"), "gave_up": ("gave", "up"), "early_requests": ("early", "requests"),
}  # fmt: skip
"""Of programs, likewise: the group `programs`, in the table of programs."""

COUNTS = frozenset(
    {*GROUPS["jobs"], "programs", "programs_completed", "programs_abandoned", "programs_unfinished",
     "abandoned_requests", "gave_up", "early_requests"}
)  # fmt: skip
"""What counts something, and is whole."""

USUAL = (
    "mean_jct_s", "p99_jct_s", "mean_s_per_token", "mean_slowdown", "mean_ttft_s", "preemptions_per_job",
    "throughput_rps", RATIO,
)  # fmt: skip
WITH_SLO = (
    "mean_jct_s", "p99_jct_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "goodput_rps", "slo_attainment", RATIO,
)  # fmt: skip
"""Instead, where any job has an objective."""
WIDE = (
    "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_s_per_token", "mean_slowdown", "mean_ttft_s",
    "p99_ttft_s", "mean_tpot_s", "preemptions_per_job", "swap_gib", "throughput_rps", "goodput_rps", "slo_attainment",
    "load", RATIO,
)  # fmt: skip
SLO_ONLY = ("goodput_rps", "slo_attainment")
"""Of these, what has no value where no job has an objective."""
USUAL_PROGRAMS = (
    "program_time_mean_s", "program_slowdown_mean", "programs_per_hour", "hit_rate", "p99_ttft_s",
    "ttft_first_turn_p99_s", "longest_wait_s", "held_mean_s",
)  # fmt: skip
WIDE_PROGRAMS = (
    "program_time_mean_s", "program_time_p95_s", "program_slowdown_mean", "programs_per_hour", "hit_rate", "p50_ttft_s",
    "p99_ttft_s", "ttft_first_turn_p99_s", "longest_wait_s", "held_mean_s",
)  # fmt: skip

SPARED = (
    "preemptions_per_job", "mean_slowdown", "mean_s_per_token", "mean_tpot_s", "mean_ttft_s", "throughput_rps",
    "longest_wait_s", "p99_ttft_s", "program_slowdown_mean", "hit_rate", "programs_per_hour",
)  # fmt: skip
"""What the unasked tables leave out where long labels leave no room for all, in this order."""

HEADINGS: Final[Headings] = {
    **{key: heading for group in GROUPS.values() for key, heading in group.items()},
    RATIO: ("JCT ratio", ""),
    **PROGRAMS,
}

DEFAULT, WIDER, ALL = "default", "wide", "all"
NAMED: Final[Mapping[str, Sequence[str]]] = {
    **{name: tuple(group) for name, group in GROUPS.items()},
    "programs": tuple(PROGRAMS),
}
"""Group -> keys; beside these there are DEFAULT, WIDER and ALL."""

Show: TypeAlias = str | Iterable[str] | None
"""Names of columns and groups, with commas between them or as a list; None: the usual ones."""


class Shown(NamedTuple):
    """Keys of the table of requests and of that of programs. asked, programs_asked: they were asked for, and are
    shown however wide. every: all there are, group by group.
    """

    requests: Sequence[str]
    programs: Sequence[str]
    asked: bool = False
    programs_asked: bool = False
    every: bool = False


def shown(show: Show = None, slo: bool = False) -> Shown:
    """What is shown. slo: whether any job has an objective. Raises ValueError that lists the valid names for one that
    is none.
    """
    usual = WITH_SLO if slo else USUAL
    if show is None:
        return Shown(usual, USUAL_PROGRAMS)
    given = show.split(",") if isinstance(show, str) else list(show)
    names = [str(name).strip().lower().replace("-", "_") for name in given if str(name).strip()]
    if not names:
        raise ValueError(f"show: no column is named; {VALID}")
    requests: list[str] = []
    programs: list[str] = []
    for name in names:
        if name == DEFAULT:
            requests += usual
            programs += USUAL_PROGRAMS
        elif name == WIDER:
            requests += [key for key in WIDE if slo or key not in SLO_ONLY]
            programs += WIDE_PROGRAMS
        elif name in NAMED or name in HEADINGS:
            keys = NAMED.get(name, (name,))
            programs += [key for key in keys if key in PROGRAMS]
            requests += [key for key in keys if key not in PROGRAMS]
        elif name != ALL:
            near = nearest(name, [DEFAULT, WIDER, ALL, *NAMED, *HEADINGS])
            raise ValueError(f"show: there is no column {name!r}{near}; {VALID}")
    every = ALL in names
    return Shown(_once(requests) or usual, _once(programs) or USUAL_PROGRAMS, bool(requests), bool(programs), every)


def _once(keys: Iterable[str]) -> list[str]:
    """In their order, the ratio at the end."""
    found = list(dict.fromkeys(keys))
    return [key for key in found if key != RATIO] + [RATIO] * (RATIO in found)


def columns(keys: Iterable[str]) -> list[Column]:
    return [Column(key, *HEADINGS[key]) for key in keys]


def with_room(keys: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> tuple[list[str], list[str]]:
    """Those for which there is room, and those left out for want of it."""
    kept, spared = list(keys), []
    for key in SPARED:
        if fits(kept):
            break
        if key in kept:
            kept.remove(key)
            spared.append(key)
    return kept, spared


def _valid() -> str:
    names: dict[str, None] = {}
    for key in HEADINGS:
        statistic, _, rest = key.partition("_")
        spread = statistic in STATISTICS and all(f"{one}_{rest}" in HEADINGS for one in STATISTICS)
        names[f"{{{','.join(STATISTICS)}}}_{rest}" if spread else key] = None
    return f"groups are {', '.join([DEFAULT, WIDER, ALL, *NAMED])}; columns are {', '.join(names)}"


VALID = _valid()
