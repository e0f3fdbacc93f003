"""Contexts: whose prompts begin alike, what of them is idle, what was evicted and computed again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.observers import contexts
from fastserve.observers.contexts import Contexts, Row
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy

SHORT = SamplingParams(max_tokens=2, ignore_eos=True, seed=1)
SYSTEM = "S" * 32


@pytest.fixture
def looked() -> Iterator[Any]:
    """looked(...): an engine with so many tokens of KV and its Contexts."""
    engines: list[Engine] = []

    def looked(kv_tokens: int | None = None, **settings: Any) -> tuple[Engine, Contexts]:
        engine = Engine.scripted(max_batch=4, kv_tokens=kv_tokens, **settings)
        engines.append(engine)
        seen = Contexts()
        engine.attach(seen)
        return engine, seen

    yield looked
    for engine in engines:
        engine.close()


def run(engine: Engine, prompt: str, program: str = "") -> None:
    engine.submit(prompt, SHORT, program=program).result()


def rows(engine: Engine, seen: Contexts) -> list[Row]:
    return engine.look(seen.rows)


def test_what_programs_share_is_one_run(looked: Any) -> None:
    engine, seen = looked()
    run(engine, SYSTEM + "a" * 16 + "tail", "a")
    run(engine, SYSTEM + "b" * 32 + "tail", "b")
    run(engine, "another " * 4 + "tail", "c")
    found = {row.name: row for row in rows(engine, seen)}
    assert {row.state for row in found.values()} == {"idle"}
    a, b, c = (found[name].segments for name in "abc")
    assert [tokens for _, tokens, _ in a] == [32, 16] and [tokens for _, tokens, _ in b] == [32, 32]
    assert a[0] == b[0] and a[1][0] != b[1][0] and [tokens for _, tokens, _ in c] == [32]
    assert c[0][0] not in (a[0][0], a[1][0], b[1][0]) and {state for _, _, state in a} == {"idle"}
    assert found["a"].tokens == 54 and (seen.asked, seen.found) == (52 + 68 + 36, 32)
    names = [row.name for row in rows(engine, seen)]
    assert abs(names.index("a") - names.index("b")) == 1, "those that begin alike are neighbours"


def test_who_runs_holds_what_others_share(looked: Any) -> None:
    engine, seen = looked(realtime=1.0)
    handles = [engine.submit(SYSTEM + name * 20, SamplingParams(max_tokens=900, ignore_eos=True)) for name in "ab"]
    for handle in handles:
        iterator = iter(handle)
        for _ in range(3):
            next(iterator)
    found = rows(engine, seen)
    assert [row.state for row in found] == ["running"] * 2 and [row.program for row in found] == [0, 0]
    assert found[0].segments[0] == found[1].segments[0] and found[0].segments[0][1:] == (32, "running")
    assert found[0].segments[1] != found[1].segments[1], "divided where they part, though no job ever cut it"
    for row in found:
        there = sum([tokens for _, tokens, _ in row.segments])
        assert there == 48 and row.tokens - 1 == there + row.own, "but for the newest token"


def test_what_was_evicted_and_is_computed_again(looked: Any) -> None:
    engine, seen = looked(kv_tokens=96, max_model_len=96)
    run(engine, "a" * 70, "a")
    assert (seen.evicted, seen.again) == (0, 0)
    run(engine, "b" * 70, "b")
    assert seen.evicted == 48 and seen.again == 0, "of six blocks two were free, and five are needed"
    there = {row.name: sum([tokens for _, tokens, _ in row.segments]) for row in rows(engine, seen)}
    assert there == {"a": 16, "b": 64}
    run(engine, "a" * 70, "a")
    assert seen.again == 48, "and the fourth was still there"
    assert seen.found == 16
    run(engine, "a" * 70, "a")
    assert seen.again == 48 and seen.found == 16 + 64


def test_what_is_remembered_is_bounded(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MOST_GONE", 8)
    monkeypatch.setattr(contexts, "MOST_NUMBERS", 40)
    engine, seen = looked(kv_tokens=96, max_model_len=96)
    for number in range(100):
        run(engine, f"{number:3} " * 18, f"program {number}")
    assert len(seen.gone) <= 8
    shown = rows(engine, seen)
    assert 0 < len(shown) <= contexts.MOST_ROWS and len(seen.numbers) <= 40
    engine, seen = looked(realtime=1.0)
    long = SamplingParams(max_tokens=500, ignore_eos=True)
    handles = [engine.submit(f"{number:4}" * 10, long, beyond_capacity=True) for number in range(200)]
    shown = rows(engine, seen)
    assert len(shown) == contexts.MOST_ROWS and [row.state for row in shown].count("running") == 4
    for handle in handles:
        handle.cancel()


class Held(Policy):
    def arrive(self, job: Job) -> None:
        if job.program == "b":
            self.hold(job)
            self.wake(job, waited=10**9)

    def rank(self, job: Job) -> int:
        return job.arrival

    def explain(self, job: Job) -> str:
        return f"its {self.context(job)} tokens"


def test_who_is_held_back_says_why(looked: Any) -> None:
    engine, seen = looked(policy=Held, realtime=1.0)
    long = SamplingParams(max_tokens=900, ignore_eos=True)
    handles = [engine.submit(SYSTEM + name * 20, long, program=name) for name in "ab"]
    next(iter(handles[0]))
    row = next(row for row in rows(engine, seen) if row.name == "b")
    assert row.state == "held" and row.why == "held back: its 52 tokens" and row.held_s > 0 and row.own == 0
    assert row.segments[0][1:] == (32, "running"), "what it would find"


def test_without_a_cache_there_are_jobs_and_no_segments(looked: Any) -> None:
    engine, seen = looked(prefix_cache="off", realtime=1.0)
    handle = engine.submit(SYSTEM, SamplingParams(max_tokens=900, ignore_eos=True), program="a")
    next(iter(handle))
    (row,) = rows(engine, seen)
    assert row.segments == [] and row.state == "running" and row.own >= 32


def test_what_the_host_keeps_follows(looked: Any) -> None:
    pools: list[Any] = []
    engine, seen = looked(kv_tokens=96, host_prefix_tokens=400, max_model_len=96)
    run(engine, "a" * 70, "a")
    handle = engine.submit("b" * 70, SHORT, program="b", listener=lambda _: pools.append(engine.snapshot().host))
    handle.result()
    assert {pool.used for pool in pools} == {0}, "while units are copied out, too"
    found = {row.name: row for row in rows(engine, seen)}
    assert [sum([tokens for _, tokens, _ in found[name].segments]) for name in "ab"] == [16, 64]
    assert [found[name].host for name in "ab"] == [48, 0]
    assert engine.snapshot().host.idle == 128
