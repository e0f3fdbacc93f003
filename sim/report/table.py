"""Results as a text table: one row a label, averaged over its seeds, within 120 columns."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from fastserve.metrics.finish import same_work
from fastserve.metrics.intervals import Ratio, paired_ratio, resampled
from fastserve.policies.in_words import fact_lines, policy_in_words, value_in_words
from sim.report.layout import WIDTH, aligned, average, number, ratio_text
from sim.report.programs import programs_lines
from sim.report.replicas import replicas_lines, router_notes
from sim.report.run import Run
from sim.settings import Settings

# Heading (two lines) and the key of the summary below it.
COLUMNS = (
    ("mean", "JCT s", "mean_jct_s"),
    ("p50", "JCT s", "p50_jct_s"),
    ("p95", "JCT s", "p95_jct_s"),
    ("p99", "JCT s", "p99_jct_s"),
    ("s per", "token", "mean_s_per_token"),
    ("slow-", "down", "mean_slowdown"),
    ("TTFT", "s", "mean_ttft_s"),
    ("preempt", "per job", "preemptions_per_job"),
    ("swap", "GiB", "swap_gib"),
    ("done", "req/s", "throughput_rps"),
    ("load", "", "load"),
)

FIRST = (
    "trace", "latency", "max_batch", "batching", "token_budget", "residency", "kv_tokens", "host_tokens", "visit",
    "predictor", "rate", "load",
)  # fmt: skip
"""Settings that are read with every result. The others are set apart where they are as --help says."""

APART = ("seeds", "unread", "missing", "resampled", "samples")
"""Settings that have a place of their own."""

DEFAULTS = {field.name: field.default for field in fields(Settings)} | {"prefix_cache": "off"}
"""As --help says; of the prefix cache, what auto comes to where a trace does not tell what its prompts share."""


def table(runs: Sequence[Run], settings: Mapping[str, object]) -> str:
    """Settings, one row per label in order of appearance, then each label's own settings and what the marks mean.

    Figures are means over seeds. The last column is the mean JCT of the first label over that of the row, paired by
    seed, with a 95 % interval where there are seeds enough; the line under the table says what was resampled.
    """
    if not runs:
        return "No run was finished."
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    first = next(iter(groups.values()))
    rows = [
        ["", *(top for top, _, _ in COLUMNS), "JCT ratio"],
        ["policy", *(bottom for _, bottom, _ in COLUMNS), f"{first[0].label} / row"],
    ]
    marks: dict[str, str] = {}
    for label, group in groups.items():
        mark = _mark(group)
        marks |= {label: mark} if mark else {}
        values = [number(average(group, key, settings)) for _, _, key in COLUMNS]
        rows.append(
            [
                f"{label} {'*' if mark else ''}".rstrip(),
                *values,
                "1" if group is first else ratio_text(_ratio(first, group, settings), bool(mark or _mark(first))),
            ]
        )
    body = aligned(rows) + _resampled(groups, settings)
    programs = programs_lines(groups, settings)
    if programs:
        body = [*programs, "", "requests:", *body]
    replicas = replicas_lines(groups, settings)
    if replicas:
        body += ["", *replicas]
    return "\n".join([*_header(runs, settings), "", *body, *_notes(groups, marks, settings)]) + "\n"


def _resampled(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, Any]) -> list[str]:
    """What the intervals are over, or why there are none: one line under the table, which may wrap."""
    seeds = min(len({run.seed for run in group}) for group in groups.values())
    words = settings.get("resampled")
    if words is None or (seeds < 2 and len(groups) < 2):
        return []
    return textwrap.wrap(resampled(seeds, words, settings.get("samples")), WIDTH, subsequent_indent="  ")


def _header(runs: Sequence[Run], settings: Mapping[str, object]) -> list[str]:
    """All settings: the important and the changed ones, then briefly those at their defaults."""
    seeds = sorted({run.seed for run in runs})
    jobs = sorted({int(run.summary["n"] or 0) for run in runs})
    items = [f"n {_span(jobs)}", f"{'seed' if len(seeds) == 1 else 'seeds'} {_span(seeds)}"]
    usual: list[str] = []
    unset: list[str] = []
    for name, value in settings.items():
        words = name.replace("_", " ")
        if name in APART:
            continue
        if name in FIRST or name not in DEFAULTS or not _usual(name, settings):
            items.append(f"{words} {value_in_words(value)}")
        elif not value:
            unset.append(words)
        else:
            usual.append(f"{words} {value_in_words(value)}")
    items += fact_lines(settings)
    parts = [f"by default: {', '.join(usual)}"] if usual else []
    parts += [f"off: {', '.join(unset)}"] if unset else []
    apart = textwrap.wrap("; ".join(parts), WIDTH, subsequent_indent="  ")
    return [*_wrapped(items), *apart]


def _usual(name: str, settings: Mapping[str, object]) -> bool:
    """Whether a setting has its default; a default of one per slot is the batch cap."""
    default = settings.get("max_batch") if name in ("kv_reserve", "prefetch_quota") else DEFAULTS[name]
    return settings[name] == default


def _notes(groups: Mapping[str, Sequence[Run]], marks: Mapping[str, str], settings: Mapping[str, object]) -> list[str]:
    notes = []
    settled: dict[str, None] = {}  # ordered; behind several routers a policy has the same settings, told once
    for label, group in groups.items():
        own = policy_in_words({name: value for name, value in _over_seeds(group).items() if name != "router"})
        if own:
            settled[f"{label.rpartition(' + ')[2] if 'router' in group[0].settings else label}: {own}"] = None
    for text in settled:
        notes += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    for text in router_notes(groups):
        notes += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    alike: dict[str, list[str]] = {}
    for label, mark in marks.items():
        alike.setdefault(mark, []).append(label)
    for mark, labels in alike.items():
        notes += textwrap.wrap(f"* {', '.join(labels)}: {mark}", WIDTH, subsequent_indent="  ")
    if any(run.summary.get("hit_rate_unlimited") is not None for group in groups.values() for run in group):
        notes += textwrap.wrap(_found(groups, settings), WIDTH, subsequent_indent="  ")
    if settings.get("guesses"):
        notes += textwrap.wrap(_guessed(groups, settings), WIDTH, subsequent_indent="  ")
    for text in _overruled(groups):
        notes += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    notes += _losses(groups)
    notes += textwrap.wrap(_window(groups, settings), WIDTH, subsequent_indent="  ")
    return ["", *notes]


def _found(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> str:
    """What the prefix cache did."""
    rates = [f"{label} {number(average(group, 'hit_rate', settings))}" for label, group in groups.items()]
    best = average(next(iter(groups.values())), "hit_rate_unlimited", settings)
    text = f"prompt tokens found in the prefix cache: {', '.join(rates)} (an unlimited one: {number(best)})"
    if settings.get("host_prefix_tokens"):
        loaded = [f"{label} {number(average(group, 'host_hit_rate', settings))}" for label, group in groups.items()]
        text += f"; of these loaded from the host: {', '.join(loaded)}"
    return text


def _guessed(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> str:
    """What guesses came to."""
    parts = []
    for label, group in groups.items():
        tokens, share = (average(group, key, settings) for key in ("tokens_per_decode", "acceptance"))
        parts.append(f"{label} {number(tokens)} ({number(share)} of the guesses right)")
    return f"tokens of a job in an iteration: {', '.join(parts)}; slowdown is against a machine that guesses nothing"


def _overruled(groups: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """Policies that held everybody back while nothing ran."""
    for label, group in groups.items():
        n = sum(int(run.records["overruled"].sum()) for run in group if "overruled" in run.records)
        if n:
            yield (
                f"{label} was overruled for {n:,} jobs: it held every job back while nothing ran, and nobody would "
                f"have been woken; `fastserve check` says what to change"
            )


def _window(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> str:
    """Over which time rates are counted, and where much of it is the drain after the last arrival, how much."""
    begin = "the end of the warmup" if settings.get("warmup") else "the first arrival"
    text = f"done req/s: completed jobs over the time from {begin} to the last end"
    if settings.get("sessions") is not None:
        return "done req/s: completed jobs over the time with all sessions at work, see above"
    spans = {}
    for label, group in groups.items():
        window, drain = (average(group, key, settings) for key in ("rate_window_s", "rate_drain_s"))
        if window and drain and drain >= NOTABLE * window:
            spans[label] = f"{label} {number(window)} s, {number(drain)} s of it after the last arrival"
    if len(spans) > 2:  # which row has which is in the summaries
        return f"{text}, of which {NOTABLE:.0%} or more is after the last arrival under {', '.join(spans)}"
    return f"{text} ({'; '.join(spans.values())})" if spans else text


NOTABLE = 0.1
"""Share of the drain in the window of the rates from which the notes tell it."""

LOSSES = {
    "rejected": "rejected jobs can never fit in the KV pool; they stand outside all times",
    "truncated": "truncated jobs outgrew the KV pool and have no times; without them the others had less company, so "
    "compare runs only where none is truncated (a larger --kv-tokens)",
    "cancelled": "cancelled jobs stand outside all times",
    "unfinished": "unfinished jobs count with the time they have waited so far, those that had not arrived not at all",
}
"""What becomes of jobs that were not completed, in the words of the notes."""

NOBODY = "rejected jobs came when no replica was left (all had failed or drained); they stand outside all times"
FIT_OR_NOBODY = (
    "rejected jobs can never fit in the KV pool, or came when no replica was left (all had failed or drained); they "
    "stand outside all times"
)

CUT = (
    "jobs of which some tokens had come when their replica failed ended with an error: they are among the truncated "
    "and have no times (--resend all starts them again elsewhere)"
)


def _losses(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """How many jobs of each label were not completed, and what that does to the figures."""
    found, kinds = [], set()
    for label, group in groups.items():
        if not any(run.summary["n"] for run in group):
            found.append(f"{label}: no job came after the warmup, so that there is nothing to take means of")
        lost = {kind: sum(int(run.summary.get(kind) or 0) for run in group) for kind in LOSSES}
        n = sum(int(run.summary["n"] or 0) for run in group)
        timed = n - sum(count for kind, count in lost.items() if kind != "unfinished")
        parts = [f"{count:,} {kind}" for kind, count in lost.items() if count]
        kinds |= {kind for kind, count in lost.items() if count}
        if parts:
            few = f"; its times are those of the other {timed:,}" if timed < n else ""
            found.append(f"{label}: {', '.join(parts)} of {n:,} jobs{few}")
    if "truncated" in kinds:
        first, *others = groups.items()
        unlike = [label for label, group in others if not _same_work(first[1], group)]
        found += [f"{', '.join(unlike)}: no ratio, for {first[0]} truncated other jobs"] if unlike else []
    told = [text for kind, text in LOSSES.items() if kind in kinds]
    runs = [run for group in groups.values() for run in group]
    by = [run.records["replica"][run.records["finish"] == "rejected"] for run in runs if "replica" in run.records]
    if "rejected" in kinds and any((of < 0).any() for of in by):
        told[told.index(LOSSES["rejected"])] = NOBODY if all((of < 0).all() for of in by) else FIT_OR_NOBODY
    cut = sum(int((run.records["finish"] == "error").sum()) for run in runs)
    if cut:  # by the loss of a replica
        all_cut = cut == sum(int(run.summary.get("truncated") or 0) for run in runs)
        told = [text for text in told if not (all_cut and text is LOSSES["truncated"])] + [CUT]
    return [*found, *(line for text in told for line in textwrap.wrap(text, WIDTH, subsequent_indent="  "))]


def _same_work(first: Sequence[Run], group: Sequence[Run]) -> bool:
    """Whether they are, under every common seed (see same_work)."""
    others = {run.seed: run for run in group}
    pairs = [(run, other) for run in first if (other := others.get(run.seed)) is not None]
    return all(same_work(one.records, other.records) for one, other in pairs)


def _over_seeds(group: Sequence[Run]) -> dict[str, Any]:
    """The policy's settings; what it derives from them may depend on a seed's requests, and then all of it is said."""
    found: list[Mapping[str, Any]] = [run.settings.get("derived", {}) for run in group]
    derived: dict[str, Any] = {}
    for name, value in found[0].items():
        words = list(dict.fromkeys(value_in_words(one.get(name)) for one in found))
        derived[name] = value if len(words) == 1 else " or ".join(words)
    return dict(group[0].settings) | ({"derived": derived} if derived else {})


def _mark(group: Sequence[Run]) -> str | None:
    """Collapsed: the run was stopped for its backlog. Saturated: the queue grew to the end."""
    collapsed = [run for run in group if run.summary.get("collapsed")]
    if collapsed:
        share = _share(collapsed, group)
        return f"collapsed{share}: stopped when more jobs were waiting than --max-backlog allows; no ratio"
    grown = [run for run in group if run.summary["saturated"]]
    if grown:
        share = _share(grown, group)
        return f"saturated{share}: the queue grew to the end, so means and ratios depend on the trace's length"
    return None


def _share(some: Sequence[Run], group: Sequence[Run]) -> str:
    return f" in {len(some)} of {len(group)} seeds" if len(group) > 1 else ""


def _ratio(first: Sequence[Run], group: Sequence[Run], settings: Mapping[str, Any]) -> Ratio | None:
    """Paired over the common seeds: an interrupted run may lack some. None where the two truncated different jobs."""
    cut_short = any(run.summary.get("collapsed") or run.settings.get("interrupted") for run in (*first, *group))
    if cut_short or not _same_work(first, group):
        return None
    mine = {run.seed: run.summary["mean_jct_s"] for run in group}
    pairs = [(run.summary["mean_jct_s"], mine.get(run.seed)) for run in first]
    both = [(base, other) for base, other in pairs if base and other]
    if not both:
        return None
    return paired_ratio([base for base, _ in both], [other for _, other in both], samples=settings.get("samples"))


def _span(values: Sequence[int]) -> str:
    """0, 1, 2 -> "0-2 (3)"; a single value as it is."""
    if len(values) == 1:
        return f"{values[0]:,}"
    if list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]} ({len(values)})"
    return ", ".join(f"{value:,}" for value in values)


def _wrapped(items: Sequence[str]) -> list[str]:
    """Joins items into lines, broken only between items unless one is too long."""
    lines = [""]
    for item in items:
        joined = f"{lines[-1]}   {item}" if lines[-1] else item
        if len(joined) <= WIDTH:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(item, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line for line in lines if line]
