"""Playback: a trace replayed on a live engine, on an absolute schedule, without HTTP."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Handle, Listener, Piece
from fastserve.metrics.records import Columns
from fastserve.profiler.load import prompt_of
from fastserve.sched.errors import RefusedError
from fastserve.workload import Trace

LEAD_S, LEAD_EACH_S = 0.5, 0.002
"""s before the first arrival, for all submissions and each of them: the engine's own inbox keeps the schedule"""

TIMES = ("arrival", "first_token", "end")


class PlaybackError(RuntimeError):
    """A request of the trace failed on the engine, or it stopped."""


def play(engine: Engine, trace: Trace, *, seed: int = 0, watch: Callable[[int], object] | None = None) -> Columns:
    """The records of a fresh engine, one row per request, by row of the trace; times count from the trace's start.

    The truth does not leak: outputs end by stop_after, while max_tokens is the trace's own column, or its largest
    output for all. A policy that needs guesses gets the true outputs, if its engine has predictor="client". Prompts
    are ids at random by `seed`, outputs greedy. watch: told how many requests have ended, on the engine's thread.

    Raises PlaybackError; ValueError for a request that the engine refuses.
    """
    rng = random.Random(seed)
    constant = int(trace.output.max())
    limits = trace.max_tokens.tolist() if trace.max_tokens is not None else [0] * len(trace)
    over = threading.Event()
    ended = 0

    def listen(piece: Piece) -> None:
        nonlocal ended
        if piece.finish_reason:
            ended += 1
            if watch is not None:
                watch(ended)
            if ended == len(trace):
                over.set()

    origin = engine.now() + LEAD_S + LEAD_EACH_S * len(trace)
    with engine.inbox.condition:  # nothing begins before everything is there, whatever kind of clock it is
        handles = [_submit(engine, trace, i, rng, limits[i] or constant, origin, listen) for i in range(len(trace))]
    while not over.wait(1.0):
        if not engine.alive:
            raise PlaybackError(f"the engine stopped during the replay: {engine.error}")
    failed = next((output for handle in handles if (output := handle.result()).error is not None), None)
    if failed is not None:
        raise PlaybackError(f"request {failed.id} failed during the replay: {failed.error}")
    columns: dict[str, Any] = dict(engine.records())
    for name in TIMES:
        columns[name] = columns[name] - round(origin * 1e9) / 1e9
    return columns


def _submit(
    engine: Engine, trace: Trace, i: int, rng: random.Random, limit: int, origin: float, listen: Listener
) -> Handle:
    output = min(int(trace.output[i]), limit)
    guess = output if engine.serving.predictor == "client" else None
    params = SamplingParams(temperature=0.0, max_tokens=limit, stop_after=output, guess=guess, seed=i)
    try:
        return engine.submit(
            prompt_of(engine, int(trace.prompt[i]), rng),
            params,
            arrival=origin + int(trace.arrival[i]) / 1e9,
            listener=listen,
            client=trace.client[i] if trace.client else "",
            program=trace.program[i] if trace.program else "",
            priority=int(trace.priority[i]) if trace.priority is not None else 0,
            beyond_capacity=True,
        )
    except RefusedError as error:
        raise ValueError(f"request {i} of {trace.name}: {error}") from None
