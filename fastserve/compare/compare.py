"""compare(): replays one trace under several contenders in alternating order (A B, B A), with paired ratios.

This module has only schedule and statistics; a Body replays: fastserve.compare.offline in this process and
fastserve.compare.http against servers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastserve.compare.contender import Contender, lined_up
from fastserve.formats import stamp
from fastserve.json_values import plain
from fastserve.metrics.finish import is_outcome, same_work
from fastserve.metrics.intervals import Ratio, paired_ratio
from fastserve.metrics.programs import completed_times, time_ratio
from fastserve.metrics.slo import Slo, goodput
from fastserve.metrics.summary import Columns, Summary
from fastserve.policies.spec import PolicySpec, facts_told
from fastserve.workload import Trace
from fastserve.workload.seeds import SeedSource, source_of
from fastserve.workload.session_settings import SessionSettings

MEASURES = (
    "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "mean_s_per_token", "output_tokens_per_s",
    "preemptions_per_job",
)  # fmt: skip
PROGRAM_MEASURES = (
    "program_time_mean_s", "program_time_p95_s", "programs_per_hour", "hit_rate", "hit_rate_unlimited",
    "ttft_first_turn_p99_s", "max_ttft_s", "held_mean_s",
)  # fmt: skip
"""Beside them, of runs of sessions."""
SLO_MEASURES = ("p99_ttft_s", "mean_tpot_s", "goodput_rps", "slo_attainment")
"""Likewise, where any request has an objective."""
KEPT = ("id", "arrival", "prompt_tokens", "output_tokens", "finish", "jct_from_arrival", "ttft", "preemptions")
BURST, BATCHES = 200, 4
"""Requests of the run that measures what fcfs sustains: BURST or the whole trace, and at least BATCHES batches."""
DRIFT = 1.5
"""Ratio of a contender's slowest round to its fastest, by pace(), above which drift of the machine is reported."""
PACED = 10
"""Minimum jobs with a time per token for pace()."""

UNLIKE_WORK = (
    "it and the baseline truncated different requests, so one did less of the work; give both a KV pool that holds "
    "every request"
)
"""Why there is no ratio."""

Watch = Callable[[int], object]
"""Called with the number of ended requests of a run."""
Report = Callable[[float, str], object]
"""(share done, current run)"""


OTHER_PROGRAMS = "it and the baseline did not complete the same programs"
"""Likewise."""


class CompareError(RuntimeError):
    """A run failed; the message says which and why. found: of the rounds before, where there are any."""

    found: Comparison | None = None


class Replay(NamedTuple):
    """A run. notes: additional facts, warnings among them; under "policy" PolicySpec.told(), where that is known, and
    of sessions under "programs" the table of metrics.programs.PROGRAM_COLUMNS.
    """

    records: Columns
    summary: Summary
    notes: dict[str, Any]


class Body(Protocol):
    """Replays traces for contenders. It may have `coming`, SessionSettings: how the programs of a trace come."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Settings, for the result."""

    def check(self, contender: Contender) -> None:
        """Raises ValueError for a contender that cannot run here; called before the first run."""

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        """The trace on a fresh, warm engine. Raises CompareError; ValueError for a request that never fits."""

    def machine(self) -> dict[str, Any]:
        """Facts of the machine."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one contender."""

    label: str
    policy: str
    number: int
    records: Columns
    summary: Summary
    notes: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """all settings of its policy, where they are known"""
    programs: Columns | None = None


@dataclass(slots=True)
class Comparison:
    """All runs in order. settings: shared by all."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    interrupted: bool = False
    """By Ctrl-C: only the rounds that all contenders have run are here."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that its runs have."""
        slo = any(run.summary.get("slo_attainment") is not None for run in self.rounds)
        return MEASURES + (SLO_MEASURES if slo else ()) + (PROGRAM_MEASURES if self.has_programs else ())

    @property
    def has_programs(self) -> bool:
        return any(run.programs is not None for run in self.rounds)

    @property
    def labels(self) -> list[str]:
        """Labels of the contenders, the baseline first."""
        return list(dict.fromkeys(run.label for run in self.rounds))

    def policies(self) -> dict[str, dict[str, Any]]:
        """Label -> all settings of its policy; empty where they are not known."""
        found: dict[str, dict[str, Any]] = {}
        for run in self.rounds:
            found.setdefault(run.label, plain(run.knobs))
        return found

    def values(self, label: str, measure: str) -> list[float]:
        """Values of a measure, one per round; NaN if missing."""
        found = [run.summary.get(measure) for run in self.rounds if run.label == label]
        return [math.nan if value is None else float(value) for value in found]

    def percentiles(self, label: str, shares: Sequence[float]) -> list[float]:
        """Percentiles of completion times over all rounds, s, of the jobs that the means are of; NaN without any."""
        timed = []
        for run in self.rounds:
            finish = run.records["finish"]
            counts = is_outcome(finish, "completed") | is_outcome(finish, "unfinished")
            timed += [run.records["jct_from_arrival"][counts]] if run.label == label else []
        jct = np.concatenate(timed)
        found: list[float] = np.percentile(
            known if len(known := jct[np.isfinite(jct)]) else [math.nan], shares
        ).tolist()
        return found

    def warnings(self) -> list[str]:
        """Warnings about the validity of the comparison."""
        said: dict[str, list[str]] = {}
        for run in self.rounds:
            for warning in run.notes.get("warnings", ()):
                said.setdefault(warning, []).append(f"{run.label} {run.number + 1}")
        named = [f"{', '.join(runs)}: {warning}" for warning, runs in said.items()]
        baseline, *others = self.labels
        named += [told for label in self.labels if (told := self._truncations(label))]
        unlike = {label: self._unlike(baseline, label) for label in others}
        named += [f"no ratios of {label}: {why}" for label, why in unlike.items() if why]
        return [*named, *(drift for label in self.labels if (drift := self._drift(label)))]

    def _truncations(self, label: str) -> str:
        mine = [run for run in self.rounds if run.label == label]
        cut, jobs = (sum([int(run.summary.get(key) or 0) for run in mine]) for key in ("truncated", "n"))
        return f"{label}: {cut} of {jobs} requests were truncated; they are outside the completion times" if cut else ""

    def _unlike(self, baseline: str, label: str) -> str:
        """Why there is no ratio of the two; empty if they did the same work in every round."""
        pairs = self._pairs(baseline, label)
        if not all(same_work(base.records, mine.records) for base, mine in pairs):
            return UNLIKE_WORK
        tables = [(base.programs, mine.programs) for base, mine in pairs]
        same = all(
            completed_times(base).keys() == completed_times(mine).keys()
            for base, mine in tables
            if base is not None and mine is not None
        )
        return "" if same else OTHER_PROGRAMS

    def _pairs(self, baseline: str, label: str) -> list[tuple[Round, Round]]:
        base = {run.number: run for run in self.rounds if run.label == baseline}
        return [(base[run.number], run) for run in self.rounds if run.label == label and run.number in base]

    def program_ratio(self, label: str) -> Ratio | None:
        """Mean program time of the baseline over this one's, paired by program; each program averaged over rounds."""
        pairs = self._pairs(self.labels[0], label)
        tables = [(base.programs, mine.programs) for base, mine in pairs]
        return time_ratio([(base, mine) for base, mine in tables if base is not None and mine is not None])

    def _drift(self, label: str) -> str:
        paces = {run.number + 1: pace(run.records) for run in self.rounds if run.label == label}
        known = {number: value for number, value in paces.items() if value > 0}  # not NaN
        if not known:
            return ""
        fast, slow = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        if known[slow] <= DRIFT * known[fast]:
            return ""
        return (f"{label} {fast}, {label} {slow}: drift: the machine was not the same, a token took "
                f"{known[fast] * 1e3:.3g} ms in the one and {known[slow] * 1e3:.3g} ms in the other; leave it alone "
                f"and run again")  # fmt: skip

    def document(self, *, jobs: bool = False) -> dict[str, Any]:
        """Plain JSON values: {settings, policies, machine, means, ratios, warnings, rounds}. ratios: the baseline's
        mean over the row's, paired, so above 1 where the row is smaller; low and high are None below ENOUGH rounds;
        no ratio where the two truncated different requests. jobs: with each job's times.
        """
        baseline, *others = self.labels
        return {
            **stamp("comparison"),
            "settings": self.settings,
            "policies": self.policies(),
            "machine": self.machine,
            "means": {label: {key: _mean(self.values(label, key)) for key in self.measures} for label in self.labels},
            "ratios": {label: {key: self._ratio(baseline, label, key) for key in self.measures} for label in others},
            **self._programs(others),
            "warnings": self.warnings(),
            "rounds": [
                {"label": run.label, "policy": run.policy, "round": run.number, "summary": run.summary}
                | ({"notes": dict(run.notes)} if run.notes else {})
                | ({"records": {name: _plain(run.records[name]) for name in KEPT}} if jobs else {})
                for run in self.rounds
            ],
        }

    def _programs(self, others: Sequence[str]) -> dict[str, Any]:
        """Of runs of sessions."""
        if not self.has_programs:
            return {}
        ratios = {label: self.program_ratio(label) for label in others}
        told = {label: None if ratio is None else ratio._asdict() for label, ratio in ratios.items()}
        return {"program_ratios": told}

    def _ratio(self, baseline: str, label: str, measure: str) -> dict[str, float | None] | None:
        if self._unlike(baseline, label):
            return None
        try:
            base = self.values(baseline, measure)
            samples = self.settings.get("samples")
            return paired_ratio(base, self.values(label, measure), samples=samples)._asdict()
        except ValueError:  # a measure that is 0 or has no value somewhere
            return None


def compare(
    body: Body,
    trace: Trace | SeedSource,
    contenders: Sequence[Contender],
    *,
    rounds: int = 5,
    rate: float | None = None,
    load: float | None = None,
    seed: int = 0,
    slo: Slo | None = None,
    report: Report | None = None,
) -> Comparison:
    """rate: requests/s; load: in units of what fcfs sustains on this body, measured first. Round i replays the requests
    of seed + i under every contender, each time on an engine of its own; every second round in reverse order, so that
    no contender always runs first. A Trace is resampled in blocks. A policy that needs guesses gets the true lengths,
    or the guesses of the predictor that the body names. Where requests wait for others (body.coming) rounds are of
    whole programs, and a round has the same programs in the same order under every contender.

    slo: objectives of requests that bring none of their own.

    After Ctrl-C it returns the rounds that all contenders have run, if there is one; so does a CompareError.

    ValueError for settings that cannot work; CompareError when a run fails.
    """
    if rounds < 1 or (rate is not None and load is not None) or (load is not None and not 0 < load < math.inf):
        raise ValueError(
            f"rounds={rounds}, rate={rate}, load={load}: give at least one round, and a rate or a load > 0"
        )
    source = source_of(trace) if isinstance(trace, Trace) else trace
    coming: SessionSettings = getattr(body, "coming", SessionSettings())
    coming.check_rate(rate=rate, load=load)
    coming.check_load(source.typical(), load)
    contenders = lined_up(contenders)
    for one in contenders:
        body.check(one)
    sustains = None
    if load is not None:
        if report is not None:
            report(0.0, "what fcfs sustains")
        sustains = sustained(body, source.typical())
        rate = load * sustains
    if rate is not None:
        source = source.at_rate(rate)
    first = source.trace(seed)
    sessions = asdict(coming) if coming.in_sessions(first) else {}
    guessed = any(one.needs_guess for one in contenders)
    settings = {"trace": first.name, "synth": None if source.recipe is None else str(source.recipe),
                "requests": len(first), "rate": None if coming.waits(first) else source.rate, "load": load,
                **sessions,
                "sustained_rps": sustains, "rounds": rounds, "seed": seed,
                **({} if slo is None else {"slo": str(slo)}), "resample": source.how,
                "resampled": source.words, "samples": source.samples(seed + rounds),
                **body.about, "predictor": body.about.get("predictor", "oracle") if guessed else "none"}  # fmt: skip
    if source.typical().dropped:
        settings["dropped_rows"] = dict(source.typical().dropped)
    ours = [one for one in contenders if isinstance(one, PolicySpec)]
    settings |= facts_told(ours, [one.title for one in ours], first.facts)
    found = Comparison(settings, {})
    for number in range(rounds):
        mine = source.trace(seed + number)
        for one in contenders if number % 2 == 0 else reversed(contenders):
            watch = None
            if report is not None:
                done, total = len(found.rounds), rounds * len(contenders)
                what = f"round {number + 1} of {rounds}: {one.title}"
                report(done / total, what)
                watch = _watcher(report, done, total, len(mine), what)
            try:
                records, summary, notes = body.replay(one, mine, seed + number, watch)
            except CompareError as error:
                failed = CompareError(f"{one.title}, round {number + 1}: {error}")
                failed.found = _whole(found, number, body)
                raise failed from None
            except KeyboardInterrupt:
                whole = _whole(found, number, body)
                if whole is None:
                    raise
                return whole
            knobs = notes.pop("policy", {})
            programs = notes.pop("programs", None)
            if slo is not None:
                summary = summary | goodput(records, slo, summary["rate_window_s"])
            found.rounds.append(Round(one.title, one.name, number, records, summary, notes, knobs, programs))
    found.machine = body.machine()
    return found


def _whole(found: Comparison, rounds: int, body: Body) -> Comparison | None:
    """Of a comparison that was broken off in the round of this number: the rounds before; None if it was the first."""
    if rounds == 0:
        return None
    found.rounds = [run for run in found.rounds if run.number < rounds]
    found.settings["rounds"] = rounds
    found.interrupted = True
    found.machine = body.machine()
    return found


def sustained(body: Body, trace: Trace) -> float:
    """Requests/s of fcfs while somebody waits: requests spread over the trace, all there at once, a short trace
    repeated until there are several full batches of them.
    """
    places = body.about["slots"] if "slots" in body.about else body.about["max_batch"]
    n = max(BATCHES * int(places), min(BURST, len(trace)))
    rows = np.arange(n) * len(trace) // n
    burst = Trace(trace.name, trace.source, np.zeros(n, np.int64), trace.prompt[rows], trace.output[rows])
    try:
        return n * done_while_full(body.replay(PolicySpec("fcfs"), burst, 0, None).records)
    except CompareError as error:
        raise CompareError(f"fcfs, {n} requests at once: {error}") from None


def done_while_full(records: Columns) -> float:
    """Share of the output tokens, per s, until the last request's first token: the drain after it is no full batch.

    A job's tokens count as delivered evenly between its first and its last. Needs more jobs than a batch holds.
    """
    begun, tokens = records["first_token"], records["output_tokens"]
    start, last = float(records["arrival"].min()), float(begun.max())
    length = np.maximum(records["end"] - begun, 1e-9)
    share = np.clip((last - begun) / length, 0.0, 1.0)
    return float((share * tokens).sum() / tokens.sum()) / (last - start)


def pace(records: Columns) -> float:
    """s per token that a tenth of the jobs stayed below: those with the fewest interruptions. NaN for few jobs."""
    known = records["tpot_excl_first"]
    known = known[np.isfinite(known)]
    return float(np.quantile(known, 0.1)) if len(known) >= PACED else math.nan


def _watcher(report: Report, done: int, total: int, requests: int, what: str) -> Watch:
    return lambda ended: report((done + ended / requests) / total, f"{what}, {ended} of {requests} ended")


def _mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


def _plain(column: Any) -> list[Any]:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in column.tolist()]
