"""Prepared: what all runs of one trace have in common, made once: what its prompts share, how long its programs take
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from fastserve.hardware import LatencyModel
from fastserve.workload import Trace
from fastserve.workload.content import Content
from fastserve.workload.requests import outputs_of
from fastserve.workload.session import Sessions, SessionSettings
from sim.cluster.settings import ALONE
from sim.prefix_cache import content_of, decided
from sim.settings import Settings


@dataclass(frozen=True, slots=True)
class Alone:
    """Times on an empty machine that forgets nothing, s."""

    turn: list[float]
    """By row: from its arrival to its end."""
    program: dict[int, float]
    """By the first row of each program: from its first arrival to its last end, think times included."""


class Prepared:
    """Of the trace that was asked for last. A Content is never changed by a run."""

    def __init__(self) -> None:
        self._trace: Trace | None = None
        self._settings: Settings | None = None
        self._content: Content | None = None
        self._alone: Alone | None = None

    def content(self, trace: Trace, settings: Settings) -> Content | None:
        """What its prompts share; None where that is not cached. Raises TraceError."""
        self._take(trace, settings)
        return self._content

    def alone(self, trace: Trace, settings: Settings) -> Alone:
        """Of a trace of sessions."""
        self._take(trace, settings)
        if self._alone is None:
            latency = settings.hardware().latency
            budget = settings.budget if settings.batching == "chunked" else None
            turns = turns_alone(trace, latency, budget, self._content)
            seconds = [ps / 1e12 for ps in turns]
            self._alone = Alone(seconds, programs_alone(trace, settings.coming, turns))
        return self._alone

    def _take(self, trace: Trace, settings: Settings) -> None:
        if settings.in_cluster:  # of one machine, whatever is in front of it
            settings = settings.with_(**ALONE)
        if trace is not self._trace or settings != self._settings:
            chosen = decided(settings, trace)
            self._content = content_of(chosen, trace, settings.hardware().memory.block_tokens)
            self._trace, self._settings, self._alone = trace, settings, None


def turns_alone(trace: Trace, latency: LatencyModel, budget: int | None, content: Content | None) -> list[int]:
    """ps of each request on the empty machine, where all is found that earlier rows and their answers said."""
    prompts: list[int] = trace.prompt.tolist()
    found = [0] * len(trace) if content is None else content.found(prompts)
    prefills: dict[tuple[int, int], int] = {}  # many requests of a trace are alike
    times = []
    for prompt, output, known in zip(prompts, outputs_of(trace), found, strict=True):
        prefill = prefills.get((prompt, known), 0)
        if prefill == 0:
            prefill = prefills[prompt, known] = latency.alone_ps(prompt, 1, budget, known)
        times.append(prefill + latency.span_ps(output - 1, 1, prompt + 1))
    return times


def programs_alone(trace: Trace, coming: SessionSettings, turns: list[int]) -> dict[int, float]:
    """s of each program by its first row, its requests taking so many ps each, and what may run at once running so.

    Of requests of one program that do run at once, none slows another: a lower bound.
    """
    every = coming if coming.open_loop else replace(coming, sessions=len(trace), program_rate=None, client_timeout=None)
    sessions = Sessions(trace, every)
    events = [(at + turns[row] // 1000, row) for row, at in sessions.begin()]
    begun = {row: at - turns[row] // 1000 for at, row in events}
    heapify(events)
    last: dict[int, int] = {}
    while events:
        now, row = heappop(events)
        last[sessions.program_of(row).rows[0]] = now
        for other, at in sessions.ended(row, now):
            heappush(events, (at + turns[other] // 1000, other))
    return {first: (end - begun[first]) / 1e9 for first, end in last.items()}
