"""Guesses that llama.cpp's body verifies: the same tokens as without, with some right and some wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import PLACEHOLDER, Body
from tests.backends.conformance import (
    CHECKS,
    CONTEXT,
    PLENTY,
    SCARCE,
    Check,
    Turmoil,
    all_of,
    at_once,
    lets_go,
    params,
    prompts,
    tokens_survive,
)

pytestmark = pytest.mark.llamacpp

HOW = ("ngram:3", "draft:embedded:3")
MODEL: dict[str, Any] = {"dtype": "float32", "threads": 1, "max_model_len": CONTEXT}


def made(speculate: str, **serving: Any) -> Engine:
    return Body("embedded", "llamacpp", **MODEL, speculate=speculate).engine(EngineConfig.of(serving), PLACEHOLDER)


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are guessed as is asked, whatever it costs."""
    monkeypatch.setattr("fastserve.speculation.drafting.Drafting.priced", lambda *_: None)


BY_DRAFT = ("tokens_survive", "cancels", "closes_twice", "leaks_nothing", "longest_context")
"""What is asked of a draft model, too. All its guesses are right here: too short for faults by number."""


@pytest.mark.parametrize(
    ("speculate", "check"),
    [(HOW[0], check) for check in CHECKS] + [(HOW[1], check) for check in CHECKS if check.__name__ in BY_DRAFT],
)
def test_it_conforms(check: Check, speculate: str) -> None:
    def make(**serving: Any) -> Engine:
        return made(speculate, **serving)

    found = check(make)
    if check is tokens_survive:
        assert found.same == found.outputs  # type: ignore[attr-defined]  # in float32: no promise, and so it is


REPEATED = [65 + i % 4 for i in range(24)]
"""A prompt that n-grams can go on with; greedily an untrained model seldom does."""


@pytest.mark.parametrize("residency", ["recompute", "reactive"])
@pytest.mark.parametrize("speculate", HOW)
def test_the_same_tokens_as_without(speculate: str, residency: str) -> None:
    """Greedy, drawn, penalised and constrained; preempted at random. Some guesses are right and some are wrong."""
    kinds: list[dict[str, Any]] = [
        {"logit_bias": {97: 4.0, 98: 4.0}, "temperature": 0.6},
        {"temperature": 0.7, "logprobs": 2},
        {"temperature": 0.0},
        {"temperature": 0.9, "repetition_penalty": 1.2},
        {"allowed_token_ids": [97, 98]},
    ]
    asked = [REPEATED, *prompts(), REPEATED]
    each = [params(i, max_tokens=40, **kinds[i % 5]) for i in range(len(asked))]
    runs = []
    for one in ("off", speculate):
        with made(one, **SCARCE, policy=Turmoil, residency=residency) as engine:
            outputs = all_of(at_once(engine, asked, each))
            lets_go(engine)
            drafted, accepted = (engine.counters[name] for name in ("draft_tokens", "accepted_tokens"))
            assert (0 < accepted < drafted) if one != "off" else (drafted, accepted) == (0, 0)
            assert sum(int(output.record["preemptions"]) for output in outputs) >= len(asked)
        runs.append([(output.token_ids, output.finish_reason, output.error) for output in outputs])
    assert runs[0] == runs[1]


def test_what_was_guessed_wrong_leaves_no_kv() -> None:
    with made("ngram:4", **PLENTY) as engine:
        backend: Any = engine.loop.backend
        real, seen = backend.run, []

        def run(plan: Any) -> Any:
            step = real(plan)
            for job, tokens in step.results:
                kept = backend.context.held(backend.residents.rows[job])
                seen.append(kept == job.prompt + job.generated + len(tokens) - 1)
            return step

        backend.run = run
        all_of(at_once(engine, [REPEATED] * 4, [params(i, max_tokens=30) for i in range(4)]))
        assert engine.counters["draft_tokens"] > engine.counters["accepted_tokens"]
    assert seen and all(seen)


def test_an_answer_ends_where_it_would() -> None:
    """A stop token among accepted guesses, and the limit."""
    asked = [REPEATED, [*REPEATED, 66]]
    each = [
        SamplingParams(max_tokens=60, temperature=0.0, allowed_token_ids=[97], stop="aaaaaaa"),
        SamplingParams(max_tokens=11, temperature=0.0, allowed_token_ids=[97], ignore_eos=True),
    ]
    with made("ngram:4", **PLENTY) as engine:
        outputs = all_of(at_once(engine, asked, each))
        assert engine.counters["accepted_tokens"] > 5
        lets_go(engine)
    assert [(output.text, output.finish_reason) for output in outputs] == [("", "stop"), ("a" * 11, "length")]


def test_a_draft_model_of_another_vocabulary(tmp_path: Any) -> None:
    from fastserve.named_models import packaged_file

    if packaged_file("smollm2") is None:
        pytest.skip("smollm2 is not installed: make model")
    with pytest.raises(ValueError, match="another vocabulary"):
        made("draft:smollm2:2", **PLENTY)


def test_what_a_guess_took_is_no_part_of_what_verifying_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else guesses seem to pay less than they do: they are priced by themselves."""
    now: list[int] = [0]
    told: list[int] = []
    monkeypatch.setattr("fastserve.backends.llamacpp.backend.perf_counter_ns", lambda: now[0])
    monkeypatch.setattr("fastserve.speculation.drafting.Drafting.took", lambda self, *about: told.append(about[-1]))
    with made(HOW[0], **PLENTY | {"policy": "fcfs"}) as engine:
        proposer = engine.loop.backend.speculating.drafting.proposer  # type: ignore[attr-defined]
        propose = proposer.propose

        def slow(asks: Any) -> Any:
            now[0] += 10**9
            return propose(asks)

        proposer.propose = slow
        assert engine.submit(REPEATED, params(0)).result(60).finish_reason == "length"
    assert now[0] and told and not any(told)
