"""Duel: several policies on one loaded model, the same trace in turns (A B A B), and their ratios pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastserve.engine.assembly import on_model
from fastserve.engine.model import Model
from fastserve.engine.playback import PlaybackError, play
from fastserve.engine.profiling import Report, machine
from fastserve.engine.serving import Serving
from fastserve.measures import Columns, Summary, paired_ratio, summarise
from fastserve.sched.latency import Hardware, load_hardware
from fastserve.workload import Trace

MEASURES = (
    "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s", "mean_s_per_token", "output_tokens_per_s",
    "preemptions_per_job",
)  # fmt: skip
BURST = 200
"""Requests at most of the run that measures what fcfs sustains."""


class DuelError(RuntimeError):
    """A run failed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one contender."""

    label: str
    policy: str
    number: int
    records: Columns
    summary: Summary


@dataclass(slots=True)
class Duel:
    """All runs, in the order in which they were made. settings: what they share."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Of the contenders, the baseline first."""
        return list(dict.fromkeys(run.label for run in self.rounds))

    def values(self, label: str, measure: str) -> list[float]:
        """One per round; a measure without a value is NaN."""
        found = [run.summary[measure] for run in self.rounds if run.label == label]
        return [math.nan if value is None else float(value) for value in found]

    def percentiles(self, label: str, shares: Sequence[float]) -> list[float]:
        """Of the completion times of all rounds together, s."""
        jct = np.concatenate([run.records["jct_from_arrival"] for run in self.rounds if run.label == label])
        found: list[float] = np.percentile(jct, shares).tolist()
        return found

    def document(self, *, jobs: bool = False) -> dict[str, Any]:
        """Plain JSON values: {settings, machine, means, ratios, rounds}. ratios: the baseline's mean over the row's,
        pairs drawn again for the interval, so above 1 where the row is smaller. jobs: with each job's times.
        """
        baseline, *others = self.labels
        return {
            "settings": self.settings,
            "machine": self.machine,
            "means": {label: {key: _mean(self.values(label, key)) for key in MEASURES} for label in self.labels},
            "ratios": {label: {key: self._ratio(baseline, label, key) for key in MEASURES} for label in others},
            "rounds": [
                {"label": run.label, "policy": run.policy, "round": run.number, "summary": run.summary}
                | ({"records": {name: _plain(run.records[name]) for name in KEPT}} if jobs else {})
                for run in self.rounds
            ],
        }

    def _ratio(self, baseline: str, label: str, measure: str) -> dict[str, float | None] | None:
        try:
            return paired_ratio(self.values(baseline, measure), self.values(label, measure))._asdict()
        except ValueError:  # a measure that is 0 or has no value somewhere
            return None


KEPT = ("id", "arrival", "prompt_tokens", "output_tokens", "finish", "jct_from_arrival", "ttft", "preemptions")


def duel(
    model: Model,
    trace: Trace,
    contenders: Sequence[Mapping[str, Any]],
    serving: Mapping[str, Any],
    *,
    rounds: int = 5,
    rate: float | None = None,
    load: float | None = None,
    seed: int = 0,
    latency: str | None = None,
    report: Report | None = None,
) -> Duel:
    """contenders: {"policy", "knobs", "label"} each. serving: settings that all share. rate: requests/s; load: in units
    of what fcfs sustains, measured first. Round i replays trace.repaired(seed + i) under every policy, each time on an
    engine of its own. A policy that needs guesses gets the true lengths.

    ValueError for settings that cannot work; DuelError when a run fails.
    """
    if rounds < 1 or (rate is not None and load is not None) or (load is not None and load <= 0):
        raise ValueError(
            f"rounds={rounds}, rate={rate}, load={load}: give at least one round, and a rate or a load > 0"
        )
    shared = {name: value for name, value in serving.items() if value is not None} | {"keep_records": None}
    servings: dict[str, Serving] = {}
    for one in contenders:
        label = one.get("label") or one["policy"]
        if label in servings:
            raise ValueError(f"two contenders would be called {label!r}: give them labels")
        servings[label] = serving_of(one["policy"], one.get("knobs") or {}, shared)
    hardware = _hardware(model, shared, latency)
    if load is not None:
        rate = load * sustained(model, trace, shared, hardware, report)
    if rate is not None:
        trace = trace.with_rate(rate)
    settings = {"trace": trace.name, "requests": len(trace), "rate": trace.rate, "load": load, "rounds": rounds,
                "model": model.name, "latency": hardware.name, **serving}  # fmt: skip
    found = Duel(settings, machine())
    total = rounds * len(servings)
    for number in range(rounds):
        mine = trace.repaired(seed + number)
        for label, chosen in servings.items():
            done = len(found.rounds)
            watch = None
            if report is not None:
                watch = _watcher(report, done, total, len(trace), f"round {number + 1}: {label}")
            with on_model(model, chosen, hardware=hardware) as engine:
                try:
                    records = play(engine, mine, seed=seed + number, watch=watch)
                except PlaybackError as error:
                    raise DuelError(f"{label}, round {number + 1}: {error}") from None
            summary = summarise(records, horizon_s=float(records["end"].max()))
            found.rounds.append(Round(label, chosen.name, number, records, summary))
    return found


def serving_of(policy: Any, knobs: Mapping[str, Any], shared: Mapping[str, Any]) -> Serving:
    """For a replay: guesses, where the policy needs them, come with the requests."""
    serving = Serving.of(dict(shared) | {"policy": policy, "knobs": dict(knobs), "predictor": "client"})
    return serving if "guess" in getattr(serving.kind, "needs", ()) else replace(serving, predictor=None)


def sustained(
    model: Model, trace: Trace, shared: Mapping[str, Any], hardware: Hardware, report: Report | None = None
) -> float:
    """Requests/s of fcfs while somebody waits, with requests spread over the trace all there at once."""
    rows = np.unique(np.linspace(0, len(trace) - 1, min(BURST, len(trace))).astype(int))
    burst = Trace(trace.name, trace.source, np.zeros(len(rows), np.int64), trace.prompt[rows], trace.output[rows])
    if report is not None:
        report(0.0, "what fcfs sustains")
    with on_model(model, serving_of("fcfs", {}, shared), hardware=hardware) as engine:
        try:
            records = play(engine, burst)
        except PlaybackError as error:
            raise DuelError(f"fcfs, all at once: {error}") from None
    return len(burst) * _done_while_full(records)


def _done_while_full(records: Columns) -> float:
    """Share of the output tokens, per s, until the last request had its place: the drain after it is no full batch."""
    last = float((records["arrival"] + records["queued"]).max())
    if last <= 0:  # they all fit the batch at once
        return 1 / float(records["end"].max())
    begun, tokens = records["first_token"], records["output_tokens"]
    length = np.maximum(records["end"] - begun, 1e-9)
    share = np.clip((last - begun) / length, 0.0, 1.0)
    return float((share * tokens).sum() / tokens.sum()) / last


def _hardware(model: Model, shared: Mapping[str, Any], latency: str | None) -> Hardware:
    """One for all runs: as given, stored, or measured once."""
    given = None if latency is None else load_hardware(latency)
    with on_model(model, serving_of("fcfs", {}, shared), hardware=given) as engine:
        return engine.hardware


def _watcher(report: Report, done: int, total: int, requests: int, what: str) -> Any:
    return lambda ended: report((done + ended / requests) / total, f"{what}, {ended} of {requests} ended")


def _mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


def _plain(column: Any) -> list[Any]:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in column.tolist()]
