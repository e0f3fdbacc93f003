"""What every backend must do, as functions: each takes a maker of engines on a fresh backend, and asserts.

A backend's own tests call them on its smallest model, all of them by CHECKS:

    def make(**serving: Any) -> Engine:
        return Body("embedded", "torch", dtype="float32", max_model_len=CONTEXT).engine(EngineConfig.of(serving))

    @pytest.mark.parametrize("check", CHECKS)
    def test_it_conforms(check: Check) -> None:
        check(make)

The engine's context is CONTEXT tokens; tokens 32 to 126 are in its vocabulary. Whether tokens survive preemption is
asked by its own Traits.exact: `always`: they do; `same-composition`: they do where a batch is one job and KV is copied,
and are counted else; `no`: they are counted. No check depends on how fast anything is: policies here take turns by
tokens, and what fails is made to fail.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fastserve.backends.options import SECRETS
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.adapters import UnknownAdapterError
from fastserve.engine.backend import Step, Traits
from fastserve.engine.request import Handle, Output, Piece
from fastserve.engine.token_text import TokenText
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.policy import Policy

Make = Callable[..., Engine]
"""Keywords of EngineConfig -> an engine on a fresh backend."""
Check = Callable[[Make], object]

CONTEXT = 96
"""Tokens of the engine's context."""
TOKENS = 12
LENGTHS = (3, 17, 40, 8, 25, 12, 31, 5)
SCARCE: dict[str, Any] = {"max_batch": 3, "kv_tokens": 144, "host_tokens": 512, "visit": 0}
"""Room for the largest request and a little more: with three at once somebody must leave."""
PLENTY: dict[str, Any] = {"max_batch": 8, "kv_tokens": 1024, "host_tokens": 1024, "policy": "fcfs"}
SOON_S = 120.0
"""s after which a request that has not ended hangs."""
RESIDENCIES = ("recompute", "reactive", "proactive")


class Turns(Policy):
    """After each third token a job goes behind all others: preempted by count and not by time."""

    settled = True

    def __init__(self) -> None:
        self.turns: dict[Job, int] = {}

    def rank(self, job: Job) -> int:
        return self.turns[job]

    def arrive(self, job: Job) -> None:
        self.turns[job] = 0
        self.wake(job, tokens=3)

    def alarm(self, job: Job, why: str) -> None:
        self.turns[job] += 1
        self.rerank(job)
        self.wake(job, tokens=3)

    def depart(self, job: Job) -> None:
        del self.turns[job]


class Turmoil(Turns):
    """After every second token of anybody all are shuffled, and what is cold too."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.draws = random.Random(seed)

    def alarm(self, job: Job, why: str) -> None:
        for one in self.turns:
            self.turns[one] = self.draws.randrange(8)
            self.rerank(one)
        self.wake(job, tokens=2)

    def coldest(self, parked: list[Job]) -> list[Job]:
        return self.draws.sample(parked, len(parked))


POLICIES: tuple[Any, ...] = (Turns, Turmoil, "sj-mlfq", "las")


@dataclass
class Survival:
    """How many outputs of preempted runs were those of an undisturbed one. other: (policy, residency, request)."""

    outputs: int = 0
    same: int = 0
    preemptions: int = 0
    other: tuple[tuple[str, str, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.same} of {self.outputs} outputs as undisturbed, after {self.preemptions} preemptions"


def prompts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(32, 127) for _ in range(n)] for n in lengths]


def params(i: int, **changes: Any) -> SamplingParams:
    """Greedy for even numbers, drawn with a seed of its own for odd ones."""
    drawn = {"temperature": 0.9, "top_k": 20, "top_p": 0.95} if i % 2 else {"temperature": 0.0}
    return SamplingParams(**({"max_tokens": TOKENS, "ignore_eos": True, "seed": 1000 + i} | drawn | changes))


def at_once(engine: Engine, asked: Sequence[list[int]], each: Sequence[SamplingParams]) -> list[Handle]:
    """All are there before the first begins."""
    with engine.inbox.condition:
        return [engine.submit(prompt, one) for prompt, one in zip(asked, each, strict=True)]


def all_of(handles: Sequence[Handle]) -> list[Output]:
    return [handle.result(SOON_S) for handle in handles]


def served(engine: Engine, lengths: Sequence[int] = LENGTHS, **changes: Any) -> list[Output]:
    asked = prompts(lengths)
    return all_of(at_once(engine, asked, [params(i, **changes) for i in range(len(asked))]))


def tokens_of(outputs: Sequence[Output]) -> list[list[int]]:
    for output in outputs:
        assert output.error is None, f"request {output.id}: {output.error}"
        assert output.finish_reason == "length", f"request {output.id} ended by {output.finish_reason}"
    return [output.token_ids for output in outputs]


def held(engine: Engine) -> dict[str, int]:
    found: dict[str, int] = engine.look(engine.loop.backend.held)  # type: ignore[attr-defined]
    return found


def lets_go(engine: Engine) -> None:
    """Nothing is left of those that have departed; copies may still be under way until the next steps."""
    for _ in range(50):
        found = held(engine)
        if not any(found.values()):
            return
        tokens_of(served(engine, (3,), max_tokens=2))
    raise AssertionError(f"all requests have ended, and the backend still holds {found}")


def traits_of(make: Make) -> Traits:
    with make(**PLENTY) as engine:
        return engine.loop.backend.traits


# -- the checks --------------------------------------------------------------------------------------------------------


def names_itself(make: Make) -> None:
    """What users are shown: its name, its context and what its times are; what is stored of it is JSON."""
    with make(**PLENTY) as engine:
        backend, info = engine.loop.backend, engine.info
        assert info.backend and info.backend == engine.settings["backend"]
        assert info.max_model_len == CONTEXT and info.vocab_size >= 127
        assert engine.hardware.memory.device_tokens is not None and engine.hardware.memory.block_tokens >= 1
        assert engine.machine != "the body's own", "settings['times'] says where its times come from"
        json.dumps({name: value for name, value in engine.settings.items() if name != "derived"}, default=str)
        assert not set(SECRETS) & engine.settings.keys()
        if hasattr(backend, "facts"):
            assert json.loads(json.dumps(backend.facts)) == json.loads(json.dumps(backend.facts))
        assert backend.traits.exact in ("always", "same-composition", "no")


def speaks_text(make: Make) -> None:
    """A prompt of text is answered with text, piece by piece the whole, and the server finds the text of each token."""
    with make(**PLENTY) as engine:
        tokenizer = engine.tokenizer
        ids = list(tokenizer.encode("Once upon a time"))
        assert ids and all(0 <= id < engine.vocab_size for id in ids)
        tokens = TokenText(tokenizer)
        assert "upon" in b"".join(map(tokens.data, ids)).decode()
        handle = engine.submit("Once upon a time", params(0))
        pieces = [piece.text for piece in handle]
        output = handle.result(SOON_S)
        assert output.error is None and output.text == "".join(pieces)
        assert all(isinstance(tokens.text(id), str) for id in output.token_ids)


def tokens_survive(
    make: Make, policies: Sequence[Any] = POLICIES, residencies: Sequence[str] = RESIDENCIES
) -> Survival:
    """Preempted runs give the undisturbed tokens, greedy and drawn, under several policies and residencies."""
    traits = traits_of(make)
    with make(**PLENTY) as engine:
        calm = tokens_of(served(engine))
        if traits.exact == "always":
            assert tokens_of(served(engine)) == calm, "the same run twice"
    assert all(len(tokens) == TOKENS for tokens in calm)
    found = Survival()
    strange: list[tuple[str, str, int]] = []
    for policy in policies:
        for residency in residencies if traits.swaps else ("recompute",):
            with make(**SCARCE, policy=policy, residency=residency) as engine:
                outputs = served(engine)
                lets_go(engine)
            name = getattr(policy, "__name__", policy)
            for want, got, output in zip(calm, tokens_of(outputs), outputs, strict=True):
                assert len(got) == len(want)
                found.outputs += 1
                found.same += got == want
                if got != want:
                    strange.append((name, residency, output.id))
            preemptions = sum(int(output.record["preemptions"]) for output in outputs)
            found.preemptions += preemptions
            if isinstance(policy, type):
                assert preemptions >= len(LENGTHS), f"{name} preempts, whatever the time"
                copied = sum(int(output.record["swapped_in_bytes"]) for output in outputs)
                assert bool(copied) == (residency != "recompute" and traits.swaps)
    found.other = tuple(strange)
    if traits.exact == "always":
        assert not strange, f"other tokens than undisturbed: {strange}"
    elif traits.exact == "same-composition" and traits.swaps:
        one_at_a_time(make)
    return found


def one_at_a_time(make: Make) -> None:
    """With one job a step every step has the composition that it has undisturbed, if KV comes back as it was."""
    with make(**PLENTY | {"max_batch": 1}) as engine:
        calm = tokens_of(served(engine))
    for residency in ("reactive", "proactive"):
        with make(**SCARCE | {"max_batch": 1}, policy=Turns, residency=residency) as engine:
            outputs = served(engine)
        assert sum(int(output.record["preemptions"]) for output in outputs) >= len(LENGTHS)
        assert sum(int(output.record["recomputed_tokens"]) for output in outputs) == 0
        assert tokens_of(outputs) == calm, f"one at a time, {residency}"


def cancels(make: Make) -> None:
    """Who is cancelled, running, parked or waiting, ends at once; the others get what they get without it."""
    traits = traits_of(make)
    with make(**SCARCE, policy=Turns) as engine:
        calm = served(engine)
        each = [params(i) for i in range(len(LENGTHS))]
        gone = {0: (0, 7), 1: (2, 3, 6)}  # by the first token of 0: itself and one that waits; by the fifth of 1
        handles: list[Handle] = []

        def hears(i: int, after: int) -> Callable[[Piece], None]:
            heard: list[Piece] = []

            def listener(piece: Piece) -> None:
                heard.append(piece)
                if len(heard) == after:
                    for other in gone[i]:
                        handles[other].cancel()

            return listener

        listeners = {0: hears(0, 1), 1: hears(1, 5)}
        with engine.inbox.condition:
            for i, prompt in enumerate(prompts()):
                handles.append(engine.submit(prompt, each[i], listener=listeners.get(i)))
        for i, output in enumerate(all_of(handles)):
            got, wanted = output.token_ids, calm[i].token_ids
            cancelled = any(i in some for some in gone.values())
            assert (output.finish_reason, output.error) == ("cancelled" if cancelled else "length", None)
            assert len(got) < TOKENS if cancelled else len(got) == TOKENS
            assert traits.exact != "always" or got == wanted[: len(got)]
        lets_go(engine)


def times_out(make: Make) -> None:
    """Who is out of time, running or waiting, ends with what it has; the others go on."""
    with make(**SCARCE, policy="fcfs") as engine:
        with engine.inbox.condition:
            late = [engine.submit(prompts()[0], params(0, max_tokens=None), timeout_s=1e-9)]
            others = [engine.submit(prompt, params(1)) for prompt in prompts()[1:4]]
            late.append(engine.submit(prompts()[0], params(0, max_tokens=None), timeout_s=1e-9))
        for output in all_of(late):
            assert output.finish_reason == "timeout" and len(output.token_ids) < CONTEXT - LENGTHS[0]
        tokens_of(all_of(others))
        lets_go(engine)


class Faulty:
    """A backend whose steps of these numbers, from 0, raise before it sees them."""

    def __init__(self, backend: Any, faults: dict[int, Exception]) -> None:
        self._backend = backend
        self._faults = faults
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, plan: Plan) -> Step:
        step, self._steps = self._steps, self._steps + 1
        if step in self._faults:
            raise self._faults[step]
        found: Step = self._backend.run(plan)
        return found


@contextmanager
def faulty(make: Make, faults: dict[int, Exception], **serving: Any) -> Iterator[Engine]:
    with make(**serving) as engine:
        engine.loop.backend = Faulty(engine.loop.backend, faults)
        yield engine


def runs_out_of_memory(make: Make) -> None:
    """A step for which there is no room costs places and a recompute, and no request."""
    traits = traits_of(make)
    with make(**PLENTY) as engine:
        calm = tokens_of(served(engine))
    with faulty(make, {4: MemoryError("as asked")}, **PLENTY) as engine:
        found = tokens_of(served(engine))
        assert engine.counters["oom"] == 1 and engine.counters["slots"] < PLENTY["max_batch"]
        lets_go(engine)
    assert traits.exact != "always" or found == calm


def starts_over(make: Make) -> None:
    """A step that fails ends the requests in it; the others are computed again and get their tokens."""
    traits = traits_of(make)
    with make(**PLENTY | {"max_batch": 2}) as engine:
        calm = tokens_of(served(engine))
    with faulty(make, {5: RuntimeError("as asked")}, **PLENTY | {"max_batch": 2}) as engine:
        outputs = served(engine)
        lets_go(engine)
        assert engine.alive and engine.counters["failed_steps"] == 1
        lost = [output for output in outputs if output.error is not None]
        assert 1 <= len(lost) <= 2 and all(output.by_step for output in lost)
        assert "as asked" in str(lost[0].error)
        for want, output in zip(calm, outputs, strict=True):
            if output.error is None and traits.exact == "always":
                assert output.token_ids == want
        after = tokens_of(served(engine))
        assert traits.exact != "always" or after == calm


def closes_twice(make: Make) -> None:
    """Also with requests under way, which are told; then nothing is held, and closing again does nothing."""
    engine = make(**SCARCE, policy=Turns)
    handles = at_once(engine, prompts(), [params(i, max_tokens=None) for i in range(len(LENGTHS))])
    next(iter(handles[0]))
    engine.close()
    for output in all_of(handles):
        assert output.finish_reason in ("cancelled", "length")
    backend: Any = engine.loop.backend
    assert not any(backend.held().values()), f"closed, and it holds {backend.held()}"
    engine.close()
    backend.close()
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        engine.submit(prompts()[0], params(0))
    with make(**PLENTY) as another:
        tokens_of(served(another, (3, 5)))


def leaks_nothing(make: Make) -> None:
    """Rounds of whole, cancelled and refused requests, and a failed step: nothing is held afterwards."""
    with faulty(make, {40: RuntimeError("as asked")}, **SCARCE, policy=Turmoil) as engine:
        for round in range(4):
            handles = at_once(engine, prompts(), [params(i) for i in range(len(LENGTHS))])
            for handle in handles[round::3]:
                handle.cancel()
            all_of(handles)
            with pytest.raises(ValueError, match=str(CONTEXT)):
                engine.submit([65] * (CONTEXT + 1), params(0))
        lets_go(engine)
        scheduler = engine.loop.scheduler
        assert not scheduler.live and not engine.loop.requests


def prompts_of_one_token(make: Make) -> None:
    """Alone and several at once; an output of one token too."""
    traits = traits_of(make)
    with make(**PLENTY) as engine:
        alone = [served(engine, (1,), max_tokens=n)[0].token_ids for n in (1, 5)]
        assert [len(tokens) for tokens in alone] == [1, 5] and alone[0] == alone[1][:1]
        outputs = tokens_of(served(engine, (1, 1, 1, 2, 1), max_tokens=5))
        assert all(len(tokens) == 5 for tokens in outputs)
        assert traits.exact != "always" or outputs[0] == alone[1]
        lets_go(engine)


def longest_context(make: Make) -> None:
    """The last place of the context is used, and not one more; what cannot fit is refused before it begins."""
    with make(**SCARCE, policy=Turns) as engine:
        lengths = (CONTEXT - 1, CONTEXT - 7, CONTEXT // 2)
        outputs = served(engine, lengths, max_tokens=None)
        assert [len(tokens) for tokens in tokens_of(outputs)] == [CONTEXT - n for n in lengths]
        with pytest.raises(ValueError, match=str(CONTEXT)):
            engine.submit([65] * CONTEXT, params(0))
        lets_go(engine)


def knows_its_adapters(make: Make) -> None:
    """One that is not loaded is refused by its name, and so is a folder that is none; the engine goes on."""
    with make(**PLENTY) as engine:
        submit = Engine.submit
        with pytest.raises(UnknownAdapterError, match="no adapter 'nobody' is loaded"):
            submit(engine, prompts()[0], params(0), adapter="nobody")
        with pytest.raises(ValueError, match="adapter"):
            engine.adapters.load("nobody", "/nowhere")
        with pytest.raises(UnknownAdapterError, match="nobody"):
            engine.adapters.unload("nobody")
        assert "nobody" not in engine.adapters.loaded
        tokens_of(served(engine, (3,)))


CHECKS: tuple[Check, ...] = (
    names_itself, speaks_text, tokens_survive, cancels, times_out, runs_out_of_memory, starts_over, closes_twice,
    leaks_nothing, prompts_of_one_token, longest_context,
    knows_its_adapters,
)  # fmt: skip
