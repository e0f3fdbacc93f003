"""Playback: replays a trace on a live engine on an absolute schedule, without HTTP."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Handle, Piece
from fastserve.metrics.records import Columns
from fastserve.predictors import Oracle, Predictor
from fastserve.sched.errors import RefusedError
from fastserve.sched.path import joined
from fastserve.workload import Trace
from fastserve.workload.content import Content, content
from fastserve.workload.requests import TraceRequest, requests_of, within
from fastserve.workload.trace import NS

LEAD_NS, LEAD_EACH_NS = 500_000_000, 2_000_000
"""ns before the first arrival, for all submissions and each of them: the engine's own inbox keeps the schedule"""

TIMES = ("arrival", "first_token", "end")

LETTERS = range(32, 127)
"""ids that stand for printable text where tokens are bytes; anything else is as good"""


class PlaybackError(RuntimeError):
    """A request of the trace failed on the engine, or it stopped."""


def play(
    engine: Engine,
    trace: Trace,
    *,
    seed: int = 0,
    predictor: Predictor | None = None,
    max_model_len: int | None = None,
    watch: Callable[[int], object] | None = None,
) -> Columns:
    """The records of a fresh engine, one row per request, by row of the trace; times count from the trace's start.

    Requests are those of the simulator (fastserve.workload.requests): arrival, limit, client, program, priority,
    deadline and objectives. The truth does not leak: outputs end by stop_after, and the limit says nothing about them.
    predictor: of the guesses, if the engine has predictor="client"; None: the true outputs. max_model_len: limits are
    cut to what a context of so many tokens leaves. Prompts are ids at random by `seed`, alike where the trace says so,
    and outputs greedy. watch: told how many requests have ended, on the engine's thread.

    Where prefixes are cached, a modelled body is told what the trace's answers are, as the simulator is, if a unit of
    the engine is a whole number of the trace's blocks. What a model answers is its own, and nobody goes on with it.

    Raises PlaybackError; ValueError for a request that the engine refuses.
    """
    prompts = Prompts(trace, LETTERS if engine.vocab_size > LETTERS[-1] else range(engine.vocab_size), seed)
    told = content_of(engine, trace)
    guesses = engine.serving.predictor == "client"
    requests = requests_of(trace, (predictor or Oracle()) if guesses else None)
    if max_model_len is not None:
        requests = within(requests, max_model_len)
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

    def submit(request: TraceRequest) -> Handle:
        params = SamplingParams(
            temperature=0.0, max_tokens=request.limit, stop_after=request.output, seed=request.id,
            guess=request.guess if guesses else None,
        )  # fmt: skip
        try:
            return engine.submit(
                prompts.of(request),
                params,
                arrival=(origin + request.arrival) / NS,
                listener=listen,
                client=request.client,
                beyond_capacity=True,
                units=None if told is None else (told.prompt(request.id), told.answer(request.id)),
                **request.scheduling,
            )
        except RefusedError as error:
            raise ValueError(f"request {request.id} of {trace.name}: {error}") from None

    origin = engine.clock.now() + LEAD_NS + LEAD_EACH_NS * len(trace)
    with engine.inbox.condition:  # nothing begins before everything is there, whatever kind of clock it is
        handles = [submit(request) for request in requests]
    while not over.wait(1.0):
        if not engine.alive:
            raise PlaybackError(f"the engine stopped during the replay: {engine.error}")
    failed = next((output for handle in handles if (output := handle.result()).error is not None), None)
    if failed is not None:
        raise PlaybackError(f"request {failed.id} failed during the replay: {failed.error}")
    columns: dict[str, Any] = dict(engine.records())
    for name in TIMES:
        columns[name] = columns[name] - origin / NS
    return columns


def content_of(engine: Engine, trace: Trace) -> Content | None:
    """What prompts and answers say, for a body that reads no prompt."""
    names = engine.input_processor.names
    if names is None or not engine.loop.backend.traits.modelled or names.unit % trace.block_size:
        return None
    return content(trace, names.unit)


class Prompts:
    """Token ids for the prompts of a trace: at random, and alike as far as its block ids say that prompts are."""

    def __init__(self, trace: Trace, letters: Sequence[int], seed: int) -> None:
        self.letters = letters
        self.seed = seed
        self.rng = random.Random(seed)
        self.content = content(trace, trace.block_size)

    def of(self, request: TraceRequest) -> list[int]:
        tokens: list[int] = []
        if self.content is not None:
            unit = self.content.unit
            path = joined(self.content.prompt(request.id), self.content.answer(request.id))
            for id in path[: -(-request.prompt // unit)]:
                tokens += random.Random(f"{self.seed} {id}").choices(self.letters, k=unit)
        return tokens[: request.prompt] + self.rng.choices(self.letters, k=max(0, request.prompt - len(tokens)))


def prompt_of(engine: Engine, tokens: int, rng: random.Random) -> list[int]:
    """Token ids at random."""
    ids: Sequence[int] = LETTERS if engine.vocab_size > LETTERS[-1] else range(engine.vocab_size)
    return rng.choices(ids, k=tokens)
