"""Profiling load: prefills, decodes and bursts on a live engine, every iteration timed from one plan to the next."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.engine.playback import prompt_of
from fastserve.hardware.processor import processor
from fastserve.profiler.fit import Iteration
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan

PREFILLS = (16, 64, 256, 128, 512, 32, 1024, 2048)
SHORTEST = 3  # tokens of a context: one of a prompt, two of an output
DECODES = 16  # output tokens of a request in a decode phase

Report = Callable[[float, str], object]
"""(share of the budget spent, current phase)"""


class Meter(Observer):
    """Records the time of each committed iteration. Attach it before the first request.

    uneven: a job may get no token in one, or several: then those are one that come until each that was due one has got
    it, on average, and one in which each gets several is so many.
    """

    def __init__(self, uneven: bool = False) -> None:
        self.noted: list[Iteration] = []
        self._sums = (0, 0)
        self._uneven = uneven
        self._due = 0  # of the plan under way
        self._begun: tuple[Iteration, int, int] | None = None  # not all have got theirs: it so far, due, got

    @classmethod
    def attach(cls, engine: Engine) -> Meter:
        meter = cls(engine.loop.backend.traits.uneven)
        engine.attach(meter)
        return meter

    def planned(self, plan: Plan, now: int) -> None:
        self._sums = (
            sum([n for _, n in plan.prefill]),
            sum([n * (2 * plan.first(job) + n) for job, n in plan.prefill]),
        )
        if self._uneven:
            self._due = len(plan.due)

    def amended(self, plan: Plan, now: int) -> None:
        self.planned(plan, now)

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        if outcome.service > 0:
            guesses = sum([drafted for _, drafted, _ in outcome.drafts])
            ms, at = outcome.service / 1e6, plan.now / 1e9
            one = Iteration(plan.batch, plan.context, *self._sums, ms, at, guesses)
            if self._uneven:
                self._note(one, self._due + sum([delta for _, delta in outcome.extra]))
            else:
                self.noted.append(one)

    def _note(self, one: Iteration, got: int) -> None:
        due = most = self._due
        if self._begun is not None:
            first, at_first, before = self._begun
            due, most, got = min(due, at_first), max(due, at_first), got + before
            one = first._replace(
                tokens=first.tokens + one.tokens, squared=first.squared + one.squared, ms=first.ms + one.ms,
                drafts=first.drafts + one.drafts,
            )  # fmt: skip
            self._begun = None
        if got < due:
            self._begun = one, most, got
            return
        each = 1 if one.drafts or not due else max(1, round(got / most))
        self.noted += [one._replace(ms=one.ms / each)] * each

    def iterations(self) -> list[Iteration]:
        """All iterations so far."""
        return list(self.noted)


class LoadPhase(NamedTuple):
    """Requests submitted together: (prompt tokens, output tokens)."""

    what: str
    requests: list[tuple[int, int]]


def phases(slots: int, longest: int, rng: random.Random) -> Iterator[LoadPhase]:
    """One round: bursts of random lengths, prefills by length, decodes by batch and context, alternating.

    longest: tokens of the longest context that matters. In a burst, prefills run together with decodes.
    """
    room = max(1, longest - DECODES)
    lengths = [n for n in PREFILLS if n < room] or [max(1, room // 2)]
    sizes = sorted({2**i for i in range(slots.bit_length()) if 2**i < slots} | {slots})
    decodes = [(batch, context) for context in dict.fromkeys((min(32, room), min(512, room))) for batch in sizes]
    turns = max(len(lengths), len(decodes))
    for i in range(turns):
        if i % 4 == 0:
            yield LoadPhase("burst", [_at_random(room, rng) for _ in range(2 * slots)])
        if i < len(lengths):
            yield LoadPhase(f"prefill of {lengths[i]}", [(lengths[i], 1)])
        if i < len(decodes):
            batch, context = decodes[i]
            yield LoadPhase(f"decode of {batch} x {context}", [(context, DECODES)] * batch)


def measure(
    engine: Engine, budget_s: float, *, longest: int | None = None, seed: int = 0, report: Report | None = None
) -> list[Iteration]:
    """Rounds of phases until the budget (s) is spent; at least a burst, a prefill and a decode.

    longest: tokens of the longest context (None: 2,560, or what the engine takes). Greedy, no text is stopped early.
    ValueError where the longest context is too short for a prefill and a decode.
    """
    scheduler = engine.loop.scheduler
    pool = engine.hardware.memory.device_tokens
    longest = PREFILLS[-1] + 512 if longest is None else longest
    longest = min(engine.max_model_len, longest, pool or engine.max_model_len)
    if longest < SHORTEST:
        raise ValueError(
            f"the longest context is {longest} tokens, and {SHORTEST} are the fewest that can be measured: give a "
            "larger KV pool, max_model_len or longest"
        )
    _serve(engine, [(min(16, longest - 2), 2)], random.Random(seed))  # the first steps of a process are the slowest
    meter = Meter.attach(engine)
    rng = random.Random(seed)
    began = perf_counter()
    done = 0
    while True:
        for phase in phases(scheduler.slots, longest, rng):
            share = (perf_counter() - began) / budget_s
            if done >= 3 and share >= 1:
                return meter.iterations()
            if report is not None:
                report(min(1.0, share), phase.what)
            _serve(engine, phase.requests, rng)
            done += 1


def _serve(engine: Engine, requests: Sequence[tuple[int, int]], rng: random.Random) -> None:
    params = [SamplingParams(temperature=0.0, max_tokens=output, stop_after=output) for _, output in requests]
    outputs = engine.generate([prompt_of(engine, tokens, rng) for tokens, _ in requests], params)
    failed = next((output.error for output in outputs if output.error is not None), None)
    if failed is not None:
        raise RuntimeError(f"a request of the measurement failed: {failed}")


def _at_random(room: int, rng: random.Random) -> tuple[int, int]:
    prompt = round(room ** rng.uniform(0.3, 0.95))
    return max(1, prompt), min(rng.randint(2, 2 * DECODES), max(1, room - prompt))


def machine() -> dict[str, Any]:
    """Facts of the machine. load_average: runnable processes, mean of the last minute."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def cpu() -> str:
    """The CPU model name, else the architecture."""
    return processor() or platform.machine()
