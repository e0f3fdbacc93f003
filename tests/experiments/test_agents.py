"""Agents at once: the best possible cache, contexts over time, the curve of one's own agents, published figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import agents, agents_published, cache_orders
from experiments._lib.agents import agents_of, fitting, mean_context, measured, working_set
from experiments._lib.best_cache import belady
from experiments._lib.case import Case, Row, Workload, points, simulate
from experiments._lib.sweep import main
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from fastserve.workload.content import content
from fastserve.workload.write import write_trace
from sim.settings import Settings

SMALL = (
    "agents:programs=5,gap=5,turns=lognormal:1.4,0.3,3,6,system=64,first=lognormal:5,0.4,64,300,add=lognormal:3,0.5,8,"
    "99,output=lognormal:2.5,0.5,4,24,think=lognormal:-1,0.5,0.1,1,people=0,forks=0,limit=1500,block=16"
)


def case(policy: str, **settings: object) -> Case:
    workload = Workload(requests=0, lengths="", synth=SMALL)
    base = Settings(latency="opt-13b-a100", kv_tokens=1024, sessions=3)
    return Case(at={"policy": policy}, workload=workload, settings=base.with_(**settings), policy=PolicySpec(policy))


def test_belady_forgets_what_is_needed_last() -> None:
    """Prompts of one block of 16 and a token: A B C A B, room for two. LRU finds nothing, the best one A or B."""
    n = 5
    ids = [[0], [1], [2], [0], [1]]
    trace = Trace(
        "t", "made here", np.arange(n), np.full(n, 17), np.ones(n, np.int64), block_size=16,
        hash_ids=[[block, 100 + row] for row, (block,) in enumerate(ids)],
    )  # fmt: skip
    columns = {
        "id": np.arange(n), "arrival": np.arange(n, dtype=float), "queued": np.zeros(n),
        "first_token": np.arange(n) + 0.5, "prompt_tokens": np.full(n, 17),
    }  # fmt: skip
    shared = content(trace, 16)
    assert [belady(columns, shared, tokens) for tokens in (16, 32, 48)] == pytest.approx([16 / 85, 32 / 85, 32 / 85])
    unserved = columns | {"first_token": np.full(n, np.nan)}
    assert belady(unserved, shared, 32) == 0.0


def test_no_policy_finds_more_than_the_best_cache_and_that_no_more_than_an_unlimited_one() -> None:
    for policy in ("fcfs", "lpm", "plas"):
        numbers = measured(case(policy))
        assert 0 < numbers["hit_rate"] <= numbers["hit_rate_belady"] <= numbers["hit_rate_unlimited"] + 1e-9, policy
    roomy = measured(case("fcfs", kv_tokens=100_000))
    assert 0.95 * roomy["hit_rate_unlimited"] < roomy["hit_rate"] <= roomy["hit_rate_unlimited"]  # some come together


def test_the_working_set_is_the_contexts_of_programs_at_work() -> None:
    records = {
        "program": np.array(["a", "a", "b"], object), "arrival": np.array([0.0, 5.0, 2.0]),
        "end": np.array([1.0, 6.0, 10.0]), "prompt_tokens": np.array([10, 30, 100]),
        "output_tokens": np.array([1, 2, 3]),
    }  # fmt: skip
    tokens, step = working_set(records)
    assert step == pytest.approx(0.1)
    assert [tokens[at] for at in (0, 19, 20, 49, 50, 59, 60, 99)] == [11, 11, 114, 114, 135, 135, 103, 103]


def test_how_many_contexts_fit() -> None:
    workload = Workload(requests=0, lengths="", synth=SMALL)
    assert fitting(workload, Settings(kv_tokens=4096)) == pytest.approx(4096 / mean_context(workload))
    assert fitting(workload, Settings(kv_tokens="unlimited")) == float("inf")


def test_copies_are_other_programs_that_ask_the_same() -> None:
    once, twice = (Workload(requests=0, lengths="", synth=SMALL, copies=copies).programs(0) for copies in (1, 2))
    assert len(twice) == 2 * len(once)
    assert len(set(twice.program or [])) == 10
    assert sorted(twice.prompt.tolist()) == sorted(2 * once.prompt.tolist())
    numbers = simulate(case("fcfs"))
    assert numbers["programs_completed"] == 5


@pytest.mark.parametrize("module", [agents, cache_orders, agents_published])
def test_every_case_of_the_small_scale_is_valid_and_there_once(module: object) -> None:
    cases = module.cases(module.SCALES["small"])  # type: ignore[attr-defined]
    assert len({tuple(sorted(one.at.items())) for one in cases}) == len(cases)
    for one in cases:
        one.policy.fresh()


def test_published_figures_and_claims_are_the_same() -> None:
    """Each row of published.csv on agents is claimed, and each claim has its row (published() raises else)."""
    rows = []
    scale = agents_published.Scale(trace="agents-like")
    for one in agents_published.cases(scale):
        numbers = {"program_times": {"a": 1.0}, "programs_per_hour": 1.0, "programs_per_hour_whole": 1.0}
        numbers |= {"hit_rate": 0.5, "hit_rate_belady": 0.6, "p99_ttft_s": 1.0, "samples": None}  # type: ignore[dict-item]
        rows.append(Row(one.at, 0, numbers))
    claimed = {(claim.figure, claim.text) for claim in agents_published.claims(rows)}
    path = Path(agents_published.__file__).parent / "published.csv"
    with path.open(encoding="utf-8", newline="") as file:
        there = {(row["figure"], row["what"]) for row in csv.DictReader(line for line in file if line[0] != "#")}
    assert claimed <= there
    names = {figure for figure, _ in claimed}
    assert {row for row in there if row[0] in names} == claimed


def test_the_curve_of_ones_own_agents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    write_trace(Workload(requests=0, lengths="", synth=SMALL).programs(0), path)
    flags = ["--trace", str(path), "--kv-tokens", "1024", "--policy", "fcfs", "--policy", "working-set", "--jobs", "1"]
    assert main("agents", [*flags, "--agents", "1,4", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "5 programs" in told
    lines = [line.split() for line in told.splitlines() if line.endswith(tuple("0123456789"))]
    assert [line[:2] for line in lines if line[0] in ("1", "4")] == [
        [agents, policy] for agents in ("1", "4") for policy in ("fcfs", "working-set")
    ]
    assert {one.name for one in (tmp_path / "out").glob("*.png")} == {"curve.png", "thrash.png", "pool.png"}
    assert main("agents", [*flags, "--agents", "none"]) == 2


def test_the_curve_tells_of_programs_that_never_fit_and_needs_no_fcfs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    write_trace(Workload(requests=0, lengths="", synth=SMALL).programs(0), path)
    flags = ["--trace", str(path), "--policy", "lpm", "--jobs", "1", "--agents", "2", "--out", str(tmp_path / "out")]
    assert main("agents", [*flags, "--kv-tokens", "100000"]) == 0
    assert "abandoned" not in capsys.readouterr().out
    assert main("agents", [*flags, "--kv-tokens", "384"]) == 0
    told = capsys.readouterr().out
    assert "of 10 programs" in told and "never fit into the pool" in told and "--kv-tokens" in told


def test_a_trace_without_programs_has_no_curve(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(agents.__file__).parents[1]
    assert main("agents", ["--trace", str(root / "traces" / "azure-conv-like.jsonl")]) == 2
    assert "which request waits for which" in capsys.readouterr().err


def test_bailian_conversations_with_the_cache_and_without(tmp_path: Path) -> None:
    """A generated file in Bailian's format: turns of chats, blocks of 16, parents; in open and in closed loop."""
    path, rows, at = tmp_path / "bailian.jsonl", [], 0.0
    for chat in range(6):
        ids, parent = [1000 * chat], -1
        for turn in range(1, 5):
            ids = [*ids, *range(1000 * chat + 10 * turn, 1000 * chat + 10 * turn + 8)]
            row = {"chat_id": 10 * chat + turn, "parent_chat_id": parent, "timestamp": round(at + 8 * turn, 3),
                   "input_length": 16 * len(ids), "output_length": 20, "type": "text", "turn": turn,
                   "hash_ids": list(ids)}  # fmt: skip
            rows.append(row)
            parent = 10 * chat + turn
        at += 1.5
    rows.sort(key=lambda row: row["timestamp"])  # type: ignore[arg-type, return-value]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    workload = agents_of(path)
    assert workload.programs(0).after is not None
    for coming in ({"sessions": 4}, {"open_loop": True}):
        for policy in ("fcfs", "sj-mlfq", "lpm"):
            found = {}
            for cache in ("off", "on"):
                settings = Settings(prefix_cache=cache, rate=None if "sessions" in coming else 1.0, **coming)  # type: ignore[arg-type]
                one = Case(at={}, workload=workload, settings=settings, policy=PolicySpec(policy))
                found[cache] = simulate(one)
            assert found["off"]["hit_rate"] in (None, 0.0)
            assert found["on"]["hit_rate"] > 0.4
            assert found["on"]["mean_ttft_s"] < found["off"]["mean_ttft_s"]


def test_axes_have_their_points() -> None:
    cases = agents.cases(agents.SCALES["small"])
    rows = [Row(one.at, one.seed, {}) for one in cases]
    assert {int(one.at["agents"]) for one in points(rows, part="curve", policy="fcfs")} == {4, 8, 12, 24}
    assert {one.at["store"] for one in points(rows, part="store", policy="fcfs")} == {0.0, 0.7, 1.4, 3.0}
    assert {one.at["think_cap"] for one in points(rows, part="think", policy="fcfs")} == {300.0, 0.0}
    stored = next(one for one in cases if one.at.get("store") == 1.4)
    assert stored.settings.host_prefix_tokens == round(1.4 * 24 * mean_context(stored.workload))
