"""What stands under a table: each label's own settings, what the marks mean, and what the figures leave out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastserve.metrics.intervals import resampled
from fastserve.metrics.slo import Slo, attained
from fastserve.policies.in_words import policy_in_words, value_in_words
from fastserve.workload import Synthesis
from fastserve.workload.arrivals import uneven
from sim.report.layout import average, number, wrapped
from sim.report.pairs import mark, same_jobs
from sim.report.replicas import router_notes
from sim.report.run import Run


def resampled_lines(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, Any]) -> list[str]:
    """What the intervals are over, or why there are none: one line under the table, which may wrap."""
    seeds = min(len({run.seed for run in group}) for group in groups.values())
    words = settings.get("resampled")
    if words is None or (seeds < 2 and len(groups) < 2):
        return []
    return wrapped(resampled(seeds, words, settings.get("samples")))


def notes(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], keys: Sequence[str]) -> list[str]:
    """keys: the columns that are shown."""
    found = []
    settled: dict[str, None] = {}  # ordered; behind several routers a policy has the same settings, told once
    for label, group in groups.items():
        own = policy_in_words({name: value for name, value in _over_seeds(group).items() if name != "router"})
        if own:
            settled[f"{label.rpartition(' + ')[2] if 'router' in group[0].settings else label}: {own}"] = None
    for text in settled:
        found += wrapped(text)
    for text in router_notes(groups):
        found += wrapped(text)
    alike: dict[str, list[str]] = {}
    for label, group in groups.items():
        if why := mark(group):
            alike.setdefault(why, []).append(label)
    for why, labels in alike.items():
        found += wrapped(f"* {', '.join(labels)}: {why}")
    if any(run.summary.get("hit_rate_unlimited") is not None for group in groups.values() for run in group):
        found += wrapped(_found(groups, settings))
    if settings.get("guesses"):
        found += wrapped(_guessed(groups, settings))
    if text := _uneven(groups, settings):
        found += wrapped(text)
    if _alike(groups):
        found += wrapped(
            "the rows are alike: nobody waited for a place, so no policy had anything to choose; requests wait at a "
            "higher load, with fewer slots (--max-batch), or in a longer run"
        )
    for text in _overruled(groups):
        found += wrapped(text)
    found += _losses(groups)
    for text in (*_objectives(groups, settings, keys), *_window(groups, settings, keys)):
        found += wrapped(text)
    return ["", *found]


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


def _uneven(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object]) -> str:
    """Where a day or phases of a synthetic workload are cut off, so that a load is not what it says."""
    recipe, asked, load = settings.get("synth"), settings.get("rate"), settings.get("load")
    first = next(iter(groups.values()))
    came = average(first, "arrival_rps", settings)
    stopped = any(run.summary.get("collapsed") or run.settings.get("interrupted") for run in first)
    if not isinstance(recipe, str) or recipe.startswith("agents:") or not isinstance(asked, int | float) or not came:
        return ""
    drawn = Synthesis.parse(recipe)
    text = "" if stopped else uneven(drawn.arrivals, drawn.n, asked, came)
    return f"{text} (load {number(load * came / asked)})" if text and isinstance(load, int | float) else text


def _alike(groups: Mapping[str, Sequence[Run]]) -> bool:
    """Whether policies had nothing to choose: the same figures to the last digit, and next to no waiting."""
    runs = [run for group in groups.values() for run in group]
    keys = ("mean_jct_s", "mean_ttft_s", "preemptions_per_job")
    told = {(run.seed, *(run.summary.get(key) for key in keys)) for run in runs}
    waited = [(run.summary.get("mean_queued_s"), run.summary.get("mean_jct_s")) for run in runs]
    return (
        len({group[0].policy for group in groups.values()}) > 1
        and len(told) == len({run.seed for run in runs})
        and all(queued is not None and jct and queued < jct / 100 for queued, jct in waited)
    )


def _overruled(groups: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """Policies that held everybody back while nothing ran."""
    for label, group in groups.items():
        n = sum(int(run.records["overruled"].sum()) for run in group if "overruled" in run.records)
        if n:
            yield (
                f"{label} was overruled for {n:,} jobs: it held every job back while nothing ran, and nobody would "
                f"have been woken; `fastserve check` says what to change"
            )


def _objectives(
    groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], keys: Sequence[str]
) -> Iterator[str]:
    """What the share of jobs that met their objectives is of, and whether it is what was asked for."""
    if "slo_attainment" not in keys:
        return
    given = Slo.parse(str(settings["slo"])) if settings.get("slo") else Slo()
    limits = str(replace(given, attain=None))
    what = f"{limits}, or what they bring instead of these" if limits else "the objectives that they bring"
    yield f"SLOs met: share of the jobs with objectives, cancelled ones aside, that were completed and met {what}"
    if verdict := attained(
        given, {label: average(group, "slo_attainment", settings) for label, group in groups.items()}
    ):
        yield verdict


COUNTED = {
    "throughput_rps": "done req/s: completed jobs",
    "goodput_rps": "goodput req/s: completed jobs that met their objectives",
}
"""Column -> what it counts."""


def _window(groups: Mapping[str, Sequence[Run]], settings: Mapping[str, object], keys: Sequence[str]) -> Iterator[str]:
    """Over which time rates are counted, and where much of it is the drain after the last arrival, how much."""
    counted = ", ".join(what for key, what in COUNTED.items() if key in keys)
    if not counted:
        return
    if settings.get("sessions") is not None:
        yield f"{counted} over the time with all sessions at work, see above"
        return
    begin = "the end of the warmup" if settings.get("warmup") else "the first arrival"
    text = f"{counted} over the time from {begin} to the last end"
    spans = {}
    for label, group in groups.items():
        window, drain = (average(group, key, settings) for key in ("rate_window_s", "rate_drain_s"))
        if window and drain and drain >= NOTABLE * window:
            spans[label] = f"{label} {number(window)} s, {number(drain)} s of it after the last arrival"
    if len(spans) > 2:  # which row has which is in the summaries
        yield f"{text}, of which {NOTABLE:.0%} or more is after the last arrival under {', '.join(spans)}"
    else:
        yield f"{text} ({'; '.join(spans.values())})" if spans else text


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
        unlike = [label for label, group in others if not same_jobs(first[1], group)]
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
    return [*found, *(line for text in told for line in wrapped(text))]


def _over_seeds(group: Sequence[Run]) -> dict[str, Any]:
    """The policy's settings; what it derives from them may depend on a seed's requests, and then all of it is said."""
    found: list[Mapping[str, Any]] = [run.settings.get("derived", {}) for run in group]
    derived: dict[str, Any] = {}
    for name, value in found[0].items():
        words = list(dict.fromkeys(value_in_words(one.get(name)) for one in found))
        derived[name] = value if len(words) == 1 else " or ".join(words)
    return dict(group[0].settings) | ({"derived": derived} if derived else {})
