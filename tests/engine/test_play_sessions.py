"""Sessions on a live engine: what follows waits for what was answered; a scripted body does what the simulator does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastserve.engine import Engine
from fastserve.engine.playback import Played, play_sessions
from fastserve.hardware import load_hardware
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from fastserve.workload import Trace
from fastserve.workload.seeds import recipe_of
from fastserve.workload.session import SessionSettings
from sim.run import run_one
from sim.settings import Settings
from sim.world import World
from tests.engine.test_same_brain import Expanded, moves

AGENTS = (
    "agents:programs=9,gap=5,turns=lognormal:1.6,0.4,2,8,system=256,first=lognormal:5.5,0.7,64,1500,"
    "add=lognormal:4,1,4,400,output=lognormal:3,0.7,4,60,think=lognormal:0.5,1,1,10,forks=0.2,limit=3000,block=64"
)
MACHINE: dict[str, Any] = {"latency": "opt-13b-a100", "max_batch": 3, "kv_tokens": 4096, "host_tokens": 8192}
COUNTED = ("id", "program", "turn", "finish", "cached_tokens", "output_tokens", "preemptions", "held_s")


class Plans(Observer):
    """Of the engine, as Expanded has those of the simulator; times from the first one on."""

    def __init__(self) -> None:
        self.iterations: list[tuple[Any, ...]] = []

    def planned(self, plan: Plan, now: int) -> None:
        chunks = [(job.id, job.prefilled, tokens) for job, tokens in plan.prefill]
        self.iterations.append((plan.now, moves(plan), chunks, plan.batch, plan.context))

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        pass


def from_first(iterations: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(start - iterations[0][0], *rest) for start, *rest in iterations]


def lived(trace: Trace, policy: str, seed: int = 0, **coming: Any) -> tuple[Played, Plans]:
    plans = Plans()
    with Engine.scripted(policy=policy, max_model_len=100_000, prefix_tokens=64, **MACHINE) as engine:
        engine.attach(plans)
        return play_sessions(engine, trace, SessionSettings(**coming), seed=seed), plans


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "plas", "lpm"])
@pytest.mark.parametrize(
    "coming",
    [{"sessions": 4}, {"program_rate": 0.5}, {}, {"open_loop": True}, {"sessions": 5, "client_timeout": 1.5}],
    ids=["closed", "rate", "recorded", "open", "timeout"],
)
def test_a_scripted_body_does_what_the_simulator_does(policy: str, coming: dict[str, Any]) -> None:
    """Plan by plan, hit by hit, in a pool that forgets: the order of programs, forks, joins, and clients that leave."""
    trace, seed = recipe_of(AGENTS).trace(3), len(policy) % 3
    seen: list[Expanded] = []

    def observe(world: World) -> None:
        seen.append(Expanded(world.machine, load_hardware(MACHINE["latency"]).latency))
        world.attach(seen[0])

    settings = Settings(prefix_cache="on", **MACHINE, **coming)
    run = run_one(trace, PolicySpec(policy), settings, seed, observe=observe)
    played, plans = lived(trace, policy, seed, **coming)
    for ours, theirs in zip(from_first(plans.iterations), from_first(seen[0].iterations), strict=True):
        assert ours == theirs
    for name in COUNTED:
        assert played.records[name].tolist() == run.records[name].tolist(), name
    for name in ("arrival", "first_token", "end"):
        np.testing.assert_allclose(played.records[name], run.records[name], atol=1e-9, err_msg=name)
    summary, table = played.measured()
    assert run.programs is not None
    for name in ("program", "finish", "turns", "completed", "abandoned", "cached_tokens"):
        assert table[name].tolist() == run.programs[name].tolist(), name
    for name in ("programs_per_hour", "program_time_mean_s", "hit_rate", "gave_up", "early_requests"):
        assert summary[name] == pytest.approx(run.summary[name]), name
    assert 0.2 < run.summary["hit_rate"] < run.summary["hit_rate_unlimited"] or "client_timeout" in coming


def chain(prompts: list[int], outputs: list[int], **fields: Any) -> Trace:
    """One conversation in blocks of 16, each turn a second after the last one's end; its text never changes."""
    n = len(prompts)
    given: dict[str, Any] = {
        "program": ["talk"] * n, "after": [() if row == 0 else (row - 1,) for row in range(n)],
        "think": np.array([0] + [10**9] * (n - 1)), "hash_ids": [list(range(tokens // 16)) for tokens in prompts],
    } | fields  # fmt: skip
    arrival = np.arange(n, dtype=np.int64)
    return Trace("talk", "made here", arrival, np.array(prompts), np.array(outputs), block_size=16, **given)


def test_what_is_longer_than_the_context_is_refused_and_its_program_abandoned() -> None:
    with Engine.scripted(max_model_len=200) as engine:
        played = play_sessions(engine, chain([50, 90, 195, 230], [20, 20, 20, 20]))
    assert played.records["finish"].tolist() == ["stop", "stop", "rejected"]
    assert played.records["arrival"].tolist()[2] == pytest.approx(played.records["end"][1] + 1.0)
    assert (played.too_long, played.sessions.abandoned) == ([2], [3])
    summary, table = played.measured()
    assert table["finish"].tolist() == ["abandoned"]
    assert (summary["programs_abandoned"], summary["abandoned_requests"], summary["rejected"]) == (1, 1, 1)


def test_the_next_program_comes_where_one_is_refused_at_once() -> None:
    """Nobody is at work who could end: what never fits makes room for the next by itself."""
    names = ["a", "a", "b", "b", "c"]
    trace = chain([300, 340, 300, 340, 50], [9] * 5, program=names, after=[(), (0,), (), (2,), ()])
    with Engine.scripted(max_model_len=200) as engine:
        played = play_sessions(engine, trace, SessionSettings(sessions=1))
    assert played.records["finish"].tolist() == ["rejected", "rejected", "stop"]
    assert played.sessions.abandoned == [1, 3]


def test_who_fails_abandons_what_follows_and_others_go_on() -> None:
    def fail(job: Job, index: int) -> None:
        if job.id == 1 and index == 3:
            raise RuntimeError("as asked")

    names = ["a", "a", "a", "b", "b"]
    trace = chain([50, 90, 130, 60, 100], [9] * 5, program=names, after=[(), (0,), (1,), (), (3,)])
    with Engine.scripted(fail=fail) as engine:
        played = play_sessions(engine, trace)
    assert played.records["finish"].tolist() == ["stop", "error", "stop", "stop"]
    assert played.sessions.abandoned == [2]


def test_the_policy_hears_that_a_program_is_over() -> None:
    class Ends(Observer):
        def __init__(self) -> None:
            self.said: list[str] = []

        def program_ended(self, program: str, now: int) -> None:
            self.said.append(program)

    ends = Ends()
    trace = chain([50, 90, 60], [9] * 3, program=["a", "a", "b"], after=[(), (0,), ()])
    with Engine.scripted() as engine:
        engine.attach(ends)
        play_sessions(engine, trace, SessionSettings(sessions=1))
        engine.snapshot()
    assert ends.said == ["a", "b"]


def test_a_real_model_s_answers_stand_in_the_next_prompt() -> None:
    """So its cache finds prompt and answer; with the recorded text it finds the prompt alone."""
    pytest.importorskip("torch")
    trace = chain([40, 80, 130], [33, 40, 10])
    found = {}
    for recorded in (False, True):
        with Engine.from_pretrained("embedded", latency="opt-13b-a100", max_batch=2, kv_tokens=1024) as engine:
            played = play_sessions(engine, trace, recorded=recorded)
            assert played.records["output_tokens"].tolist() == [33, 40, 10]
            assert played.records["prompt_tokens"].tolist() == [40, 80, 130]
            found[recorded] = played.records["cached_tokens"].tolist()
    assert found == {False: [0, 64, 112], True: [0, 32, 80]}
