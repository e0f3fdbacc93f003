"""The part of a table that is about programs, of runs of sessions: one row a label, and what became of the others."""

from collections.abc import Mapping, Sequence

from fastserve.metrics.intervals import Ratio
from fastserve.metrics.programs import time_ratio
from sim.report.columns import PROGRAMS, Shown, columns, shown, with_room
from sim.report.layout import aligned, average, figure, first_or_row, left_out, number, ratio_text, too_wide, wrapped
from sim.report.run import Run

SHORT = 0.5
"""Share of a run below which the time with all sessions at work says little of a long run."""


def programs_lines(
    groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], chosen: Shown | None = None
) -> list[str]:
    """Nothing where no run has programs. The last column is paired by program, see metrics.programs.time_ratio()."""
    if not has_programs(groups):
        return []
    chosen = chosen or shown()
    keys, spared = list(chosen.programs), list[str]()
    if chosen.every:
        keys = list(PROGRAMS)
        lines = []
        for some in (keys[:10], keys[10:]):
            lines += aligned(_rows(groups, settings, some)) + ([""] if some[0] == keys[0] else [])
    else:
        if not chosen.programs_asked:
            keys, spared = with_room(keys, lambda keys: not too_wide(aligned(_rows(groups, settings, keys))))
        lines = aligned(_rows(groups, settings, keys))
    lines += left_out(spared)
    return ["programs:", *lines, *[line for note in program_notes(groups, settings) for line in wrapped(note)]]


def has_programs(groups: Mapping[str, Sequence[Run]]) -> bool:
    return any(run.programs is not None for run in next(iter(groups.values())))


def program_rows(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], chosen: Shown) -> list[list[str]]:
    """The cells of the same table, all columns of it however wide: two rows of heading, then one a label."""
    return _rows(groups, settings, list(PROGRAMS) if chosen.every else chosen.programs)


def program_notes(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> list[str]:
    """What stands under it."""
    first = next(iter(groups.values()))
    return [
        _intervals(first),
        _window(groups, settings),
        *_lost(groups),
        *_forgotten(groups, settings),
        *_early(first),
    ]


def _rows(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], keys: Sequence[str]) -> list[list[str]]:
    first = next(iter(groups.values()))
    found = columns(keys)
    rows = [
        ["", *(one.top for one in found), "time ratio"],
        ["policy", *(one.bottom for one in found), first_or_row(first[0].label)],
    ]
    for name, group in groups.items():
        ratio = "1" if group is first else ratio_text(_ratio(first, group), marked=False)
        rows.append([name, *[figure(group, key, settings) for key in keys], ratio])
    return rows


def _ratio(first: Sequence[Run], group: Sequence[Run]) -> Ratio | None:
    """None where a run was cut short, or one of the two completed what the other did not."""
    if any(run.summary.get("collapsed") or run.settings.get("interrupted") for run in (*first, *group)):
        return None
    others = {run.seed: run.programs for run in group}
    pairs = [(run.programs, others.get(run.seed)) for run in first]
    return time_ratio([(one, other) for one, other in pairs if one is not None and other is not None])


def _intervals(first: Sequence[Run]) -> str:
    count = int(first[0].summary["programs"] or 0)
    seeds = f", each averaged over {len(first)} seeds" if len(first) > 1 else ""
    return f"time: from a program's first arrival to its last end; ratios are paired over {count:,} programs{seeds}"


def _window(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> str:
    """Over which time rates are counted."""
    text = "rates are counted over the whole run"
    most = settings.get("sessions")
    if most is not None:
        spans, short = [], False
        for label, group in groups.items():
            part, whole = (average(group, key, settings) for key in ("program_window_s", "makespan_s"))
            spans.append(f"{label} {number(part)} of {number(whole)} s")
            short = short or (part or 0.0) < SHORT * (whole or 0.0)
        few = ", which is too little to go by: give more programs or fewer at once" if short else ""
        text = f"rates are counted while {most} programs are at work ({', '.join(spans)}){few}"
    return f"{text}; programs an hour: completed requests, each as its part of its program"


def _lost(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """How many programs were not completed, and why."""
    found = []
    first = next(iter(groups.values()))
    for label, group in groups.items():

        def total(key: str, group: Sequence[Run] = group) -> int:
            return sum(int(run.summary.get(key) or 0) for run in group)

        n, abandoned, open_ = total("programs"), total("programs_abandoned"), total("programs_unfinished")
        parts = []
        if abandoned:
            gave_up = f", {total('gave_up'):,} of them given up by their clients" if total("gave_up") else ""
            parts.append(
                f"{abandoned:,} abandoned, for a request of theirs was not completed{gave_up}; "
                f"{total('abandoned_requests'):,} requests that would have followed never came"
            )
        if open_:
            parts.append(f"{open_:,} unfinished, which count with their time so far")
        if parts:
            found.append(f"{label}: of {n:,} programs {'; '.join(parts)}")
        if group is not first and _ratio(first, group) is None:
            found.append(f"{label}: no ratio, for it and {first[0].label} did not complete the same programs")
    return found


def _forgotten(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> list[str]:
    """Prompt tokens that were computed again because the cache had forgotten them."""
    shares = {label: average(group, "evicted_share", settings) for label, group in groups.items()}
    told = [f"{label} {number(share)}" for label, share in shares.items() if share]
    return (
        [f"share of prompt tokens computed again, for the cache had forgotten them: {', '.join(told)}"] if told else []
    )


def _early(first: Sequence[Run]) -> list[str]:
    early = sum(int(run.summary.get("early_requests") or 0) for run in first)
    if not early:
        return []
    return [
        f"open loop: under {first[0].label} {early:,} requests came before what they repeat had been answered, which "
        "no client can do: who is slow is given more to do at once, and finds less in its cache"
    ]
