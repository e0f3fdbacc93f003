"""Playback: replays a trace on a live engine on its own clock, without HTTP."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Handle, Piece, Replayed
from fastserve.metrics.finish import COMPLETED
from fastserve.metrics.records import Columns
from fastserve.metrics.sessions import measured
from fastserve.metrics.summary import Summary
from fastserve.predictors import Oracle, Predictor
from fastserve.sched.errors import RefusedError
from fastserve.workload import Trace
from fastserve.workload.content import Content, content
from fastserve.workload.programs import turns_of
from fastserve.workload.prompts import Dialogue, TracePrompts, tokens_of
from fastserve.workload.requests import requests_of, tools_of, within
from fastserve.workload.session import Sessions, SessionSettings
from fastserve.workload.trace import NS

LEAD_NS, LEAD_EACH_NS = 500_000_000, 2_000_000
"""ns before the first arrival, for the submissions at the start and each of them: the engine's own inbox keeps the
schedule"""

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
    Every request comes at its recorded arrival; play_sessions() lets those wait that wait for others.

    Requests are those of the simulator (fastserve.workload.requests): arrival, limit, client, program, priority,
    deadline and objectives. The truth does not leak: outputs end by stop_after, and the limit says nothing about them.
    predictor: of the guesses, if the engine has predictor="client"; None: the true outputs. max_model_len: limits are
    cut to what a context of so many tokens leaves. Prompts are ids at random by `seed`, alike where the trace says so,
    and outputs greedy. watch: told how many requests have ended, on the engine's thread.

    Where prefixes are cached, a modelled body is told what the trace's answers are, as the simulator is, if a unit of
    the engine is a whole number of the trace's blocks. What a model answers is its own, and nobody goes on with it.

    Raises PlaybackError; ValueError for a request that the engine refuses.
    """
    every = Sessions(trace, SessionSettings(open_loop=True), seed)
    player = _Player(engine, trace, every, seed, predictor, max_model_len, watch, late=False, recorded=True)
    player.run()
    failed = next((output for handle in player.handles if (output := handle.result()).error is not None), None)
    if failed is not None:
        raise PlaybackError(f"request {failed.id} failed during the replay: {failed.error}")
    return player.records()


@dataclass(slots=True, eq=False)
class Played:
    """A run of sessions. records: of the requests that came, by row of the trace; too_long: those of them that exceed
    the context and were refused.
    """

    records: Columns
    sessions: Sessions
    too_long: list[int] = field(default_factory=list)

    def measured(self) -> tuple[Summary, Columns]:
        """The summary, and the table of programs."""
        sessions = self.sessions
        ends = self.records["end"]
        return measured(
            self.records, sessions.names, sessions.members, sessions.abandoned, horizon_s=float(ends.max(initial=0.0)),
            at_once=sessions.settings.sessions, after=sessions.repeats,
        )  # fmt: skip


def play_sessions(
    engine: Engine,
    trace: Trace,
    coming: SessionSettings | None = None,
    *,
    seed: int = 0,
    predictor: Predictor | None = None,
    recorded: bool = False,
    watch: Callable[[int], object] | None = None,
) -> Played:
    """The same of a trace whose requests wait for others: on the engine's clock each comes when those before it have
    ended and the think time is over, as in the simulator (fastserve.workload.session).

    A scripted body finds, request by request, what the simulator finds. On a real one a prompt goes on with what the
    model has answered, as an agent would send it, or with recorded=True with the trace's own text, in which its answers
    are not found again. seed: as for play(), and of the programs' order and begin, see Sessions.

    What is refused, truncated or given up abandons what waits for it: Played.sessions.abandoned. So does a request that
    is longer than the engine's context, and one that fails. Raises PlaybackError when the engine stops.
    """
    sessions = Sessions(trace, coming or SessionSettings(), seed)
    context = engine.max_model_len
    player = _Player(engine, trace, sessions, seed, predictor, context, watch, late=True, recorded=recorded)
    player.run()
    return Played(player.records(), sessions, player.too_long)


class _Player:
    """late: whatever cannot be served is refused when it comes, and not an error."""

    def __init__(
        self, engine: Engine, trace: Trace, sessions: Sessions, seed: int, predictor: Predictor | None,
        max_model_len: int | None, watch: Callable[[int], object] | None, *, late: bool, recorded: bool,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.trace = trace
        self.sessions = sessions
        self.late = late
        self.watch = watch
        self.told = content_of(engine, trace)
        ids = LETTERS if engine.vocab_size > LETTERS[-1] else range(engine.vocab_size)
        prompts = TracePrompts(trace, ids.start, ids.stop, seed)
        self.dialogue = Dialogue(trace, prompts, recorded=recorded or self.told is not None)
        self.guesses = engine.serving.predictor == "client"
        self.context = max_model_len
        requests = requests_of(trace, (predictor or Oracle()) if self.guesses else None)
        self.requests = list(requests if max_model_len is None else within(requests, max_model_len))
        self.tools = tools_of(trace)
        self.handles: list[Handle] = []
        self.too_long: list[int] = []
        self._refused: list[tuple[int, int]] = []  # (row, ns) of these
        self._gone = 0  # requests that are over
        self._fault: BaseException | None = None
        self._over = threading.Event()
        self._origin = 0

    def run(self) -> None:
        """Until every request has ended or been abandoned. Raises PlaybackError when the engine stops before."""
        engine = self.engine
        begin = self.sessions.begin()
        self._origin = engine.clock.now() + LEAD_NS + LEAD_EACH_NS * len(begin)
        with engine.inbox.condition:  # nothing begins before everything is there, whatever kind of clock it is
            self._come(begin)
        while not self._over.wait(1.0):
            if not engine.alive:
                raise PlaybackError(f"the engine stopped during the replay: {engine.error}")
        if self._fault is not None:
            raise self._fault

    def records(self) -> Columns:
        recorder = self.engine.loop.recorder
        for row, at in self._refused:
            job = self.requests[row]._replace(arrival=self._origin + at).job()
            self.engine.look(partial(recorder.rejected, job, job.arrival, "longer than the context"))
        columns: dict[str, Any] = dict(self.engine.records())
        for name in TIMES:
            columns[name] = columns[name] - self._origin / NS
        if self.trace.program is not None:
            turns = turns_of(self.trace)
            columns["turn"][:] = [turns[row] for row in columns["id"].tolist()]
        if self.trace.slo_class is not None:
            columns["slo_class"][:] = [self.trace.slo_class[row] for row in columns["id"].tolist()]
        return columns

    def _come(self, arrivals: Sequence[tuple[int, int]]) -> None:
        """These rows will arrive, ns after the trace's start. Here or on the engine's thread."""
        due = list(arrivals)
        for row, at in due:  # which grows by what comes because one is refused
            if self._fits(row):
                self.handles.append(self._submit(row, at))
            else:
                self.too_long.append(row)
                self._refused.append((row, at))
                due += self._left(row, at, ok=False)
        if self._gone + len(self.sessions.abandoned) == len(self.trace):
            self._over.set()

    def _fits(self, row: int) -> bool:
        request = self.requests[row]
        return not self.late or self.context is None or request.prompt + request.output <= self.context

    def _submit(self, row: int, at: int) -> Handle:
        request = self.requests[row]._replace(arrival=at)
        prompt = tokens_of(self.dialogue.make(row)).tolist()
        params = SamplingParams(
            temperature=0.0, max_tokens=request.limit, stop_after=request.output, seed=request.id,
            guess=request.guess if self.guesses else None,
        )  # fmt: skip
        patience = self.sessions.patience
        replayed = Replayed(
            row, None if self.told is None else (self.told.prompt(row), self.told.answer(row)),
            None if patience is None else self._origin + at + patience, self.late,
        )  # fmt: skip
        said: list[int] = []

        def listen(piece: Piece) -> None:
            if piece.token_id is not None:
                said.append(piece.token_id)
            if piece.finish_reason:
                self._ended(row, said, piece)

        try:
            return self.engine.submit(
                prompt, params, arrival=(self._origin + at) / NS, listener=listen, client=request.client,
                tool="" if self.tools is None else self.tools[row],
                calls="" if self.trace.tool is None else self.trace.tool[row],
                beyond_capacity=True, replayed=replayed, **request.scheduling,
            )  # fmt: skip
        except RefusedError as error:
            raise ValueError(f"request {row} of {self.trace.name}: {error}") from None

    def _ended(self, row: int, said: list[int], piece: Piece) -> None:
        """On the engine's thread, at the boundary at which it was over."""
        try:
            ok = piece.finish_reason in COMPLETED
            self.dialogue.answered(row, said if ok else None)
            come = self._left(row, piece.at_ns - self._origin, ok)
            if self.engine.alive:
                self._come(come)
        except BaseException as error:
            self._fault = error
            self._over.set()

    def _left(self, row: int, at: int, ok: bool) -> list[tuple[int, int]]:
        """What comes because of it."""
        come = self.sessions.ended(row, at, ok)
        self._gone += 1
        program = self.sessions.program_of(row).name
        if self.late and program and self.sessions.is_last(row):
            self.engine.end_program(program)
        if self.watch is not None:
            self.watch(self._gone)
        return come


def content_of(engine: Engine, trace: Trace) -> Content | None:
    """What prompts and answers say, for a body that reads no prompt."""
    names = engine.input_processor.names
    if names is None or not engine.loop.backend.traits.modelled or names.unit % trace.block_size:
        return None
    return content(trace, names.unit)


def prompt_of(engine: Engine, tokens: int, rng: random.Random) -> list[int]:
    """Token ids at random."""
    ids: Sequence[int] = LETTERS if engine.vocab_size > LETTERS[-1] else range(engine.vocab_size)
    return rng.choices(ids, k=tokens)
