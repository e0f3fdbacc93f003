"""python -m sim with replicas, as users run it: what is printed, written and refused; and sim.replay()."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from fastserve.flightlog.routes import replay_routes
from fastserve.workload import read_trace
from sim.__main__ import main
from sim.sustained import sustained_rate
from tests.observers.chrome_trace import check

ROOT = Path(__file__).parents[3]
TRACE = str(ROOT / "traces" / "azure-conv-like.jsonl")
AGENTS = str(ROOT / "traces" / "agents-like.jsonl")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main([TRACE, "--num-requests", "40", *arguments]) == status
    found = capsys.readouterr()
    return found.out, found.err


def test_every_command_of_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    text = (ROOT / "docs" / "routers.md").read_text(encoding="utf-8")
    section = text[text.index("## In the simulator") :]
    commands = re.findall(r"^    python -m sim TRACE (.*)$", section, re.M)
    assert len(commands) >= 6
    monkeypatch.chdir(tmp_path)
    for command in commands:
        out, _ = run(capsys, *shlex.split(command))
        assert "replicas" in out
    assert replay_routes(tmp_path / "routes.jsonl").choices


def test_rows_are_routers_and_policies(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(
        capsys, "--replicas", "3", "--router", "round-robin", "--router", "least-tokens", "--router-set", "decode=2",
        "--policy", "fcfs", "--policy", "srpt", "--label", "short first", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert [one["label"] for one in found["runs"]] == [
        "round-robin + fcfs", "round-robin + short first (oracle)", "least-tokens decode=2 + fcfs",
        "least-tokens decode=2 + short first (oracle)",
    ]  # fmt: skip
    last = found["runs"][-1]
    assert last["settings"]["router"] == {
        "name": "least-tokens", "settings": {"prefill": 1.0, "decode": 2, "add_sent": True}
    }  # fmt: skip
    assert [one["name"] for one in last["replicas"]] == ["r0", "r1", "r2"]
    assert sum(one["requests"] for one in last["replicas"]) == 40 and found["settings"]["replicas"] == 3
    assert last["summary"]["imbalance"] >= 1


def test_without_a_router_nothing_is_said_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--policy", "fcfs", "--json")
    found = json.loads(out)
    assert "replicas" not in found["runs"][0] and "replicas" not in found["settings"]
    assert "router" not in found["runs"][0]["settings"] and "view_delay" not in found["settings"]


def test_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = {name: str(tmp_path / name) for name in ("t.json", "i.csv", "routes.jsonl", "out")}
    run(
        capsys, "--replicas", "2", "--router", "freeness", "--policy", "fcfs", "--fail", "1@5:back@10", "--timeline",
        where["t.json"], "--iterations", where["i.csv"], "--route-log", where["routes.jsonl"], "--out", where["out"],
        "--csv",
    )  # fmt: skip
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"i-{part}.csv" for part in ("r0", "r1", "r1-2")} <= names
    drawn = check((tmp_path / "t.json").read_text(), whole=False)
    assert list(drawn.groups.values()) == [f"freeness + fcfs, {part}" for part in ("r0", "r1", "r1 (2)")]
    for track in drawn.slices("waiting", "freeness + fcfs, r1 (2)").values():
        assert all(start >= 10e9 for start, _, _ in track), "who waits there came after it had come back"
    records = pd.read_parquet(tmp_path / "out" / "records.parquet")
    assert set(records["replica"]) == {0, 1} and records["resent"].sum() == (records["resent"] > 0).sum()
    table = pd.read_csv(tmp_path / "out" / "replicas.csv")
    assert table["requests"].sum() == 40 and list(table["replica"]) == [0, 1]
    again = replay_routes(where["routes.jsonl"])
    assert again.choices >= 40 and not again.differing


def test_explain_says_where_it_went_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(
        capsys, "--replicas", "2", "--router", "least-tokens", "--policy", "fcfs", "--rate", "50", "--explain", "20",
        "--fail", "0@0.6", "--fail", "1@100:back@101",
    )  # fmt: skip
    life = out[out.index("job 20 under least-tokens + fcfs") :]
    assert re.search(r"routed to r\d, one of 2: [\d,]+ tokens to compute", life)
    assert re.search(r"r\d: arrived", life) and re.search(r"r\d: ended \(stop\)", life)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--router", "nosuch"], "no router 'nosuch'; there are round-robin"),
        (["--router", "least-tokens", "--router-set", "foo=1"], "has no setting 'foo'; it has prefill"),
        (["--replicas", "2", "--fail", "5@3"], "there are replicas 0 to 1"),
        (["--replicas", "100000000"], "replicas=100000000 must be at most 10,000"),
        (["--replica", "foo=1"], "is none of weight, name, latency"),
        (["--replica", "latency=nosuch"], "no latency preset"),
        (["--route-log", "x.jsonl"], "there is no router here"),
        (["--replicas", "2", "--router", "random", "--router", "random"], "two rows have the label 'random + fcfs'"),
        (["--replicas", "2", "--timeline", "x", "--route-log", "x"], "timeline and route-log are both x"),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    _, err = run(capsys, *arguments, status=2)
    assert message in err and err.count("\n") == 1


def test_replicas_that_are_dead_from_the_start_serve_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--replicas", "2", "--fail", "0@0", "--fail", "1@0", "--policy", "fcfs")
    assert "40 rejected of 40 jobs" in out and "nan" not in out
    assert "no replica was left (all had failed or drained)" in out and "never fit" not in out


def test_both_reasons_of_a_rejection_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--replicas", "2", "--kv-tokens", "1024", "--policy", "fcfs"]
    out, _ = run(capsys, *small)
    assert "never fit" in out and "no replica was left" not in out
    out, _ = run(capsys, *small, "--fail", "0@1", "--fail", "1@1")
    assert "never fit in the KV pool, or came when no replica was left" in out


def test_a_router_that_breaks_ends_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from fastserve import Router\n\n\nclass Bad(Router):\n    def route(self, job, views):\n        return 7\n"
    )
    _, err = run(capsys, "--replicas", "3", "--router", f"{tmp_path / 'bad.py'}:Bad", status=1)
    assert "router Bad, route() of job 0: must return an index from 0 to 2, not 7" in err


def test_a_load_is_of_all_replicas() -> None:
    rows = read_trace(TRACE).head(40)
    one = sim.Settings(latency="opt-1.3b-course")
    other = sim.Settings()
    both = sim.Settings(latency="opt-1.3b-course", replica=("weight=2", "latency=opt-13b-a100"))
    assert sustained_rate(rows, both) == sustained_rate(rows, one) + sustained_rate(rows, other)
    found = sim.replay(rows, "fcfs", load=0.5, replicas=3)
    assert found.settings["rate"] == pytest.approx(1.5 * sustained_rate(rows, other))


def test_replay_takes_routers_and_settings() -> None:
    found = sim.replay(TRACE, ["fcfs", "las"], router=["session", "random"], replicas=2, num_requests=30, rate=4.0)
    assert [run.label for run in found.runs] == ["session + fcfs", "session + las", "random + fcfs", "random + las"]
    assert len(found.replicas()) == 8 and {"replica", "resent"} <= set(found.records().columns)
    same = sim.replay(TRACE, "fcfs", settings=sim.Settings(replicas=2, router="random"), num_requests=30, rate=4.0)
    assert same.records().equals(found.records()[lambda all: all["label"] == "random + fcfs"].reset_index(drop=True))
    with pytest.raises(ValueError, match="no run had replicas"):
        sim.replay(TRACE, "fcfs", num_requests=5).replicas()


def test_programs_find_what_their_own_replica_has() -> None:
    """Turns go on where their context is, under `session` and `prefix`; in turn they mostly do not."""
    rates = {}
    for router in ("round-robin", "session", "prefix"):
        found = sim.replay(AGENTS, "fcfs", router=router, replicas=4, sessions=12, num_requests=300).runs[0]
        rates[router] = found.summary["hit_rate"]
        if router == "session":
            homes = pd.DataFrame(dict(found.records)).groupby("program")["replica"].nunique()
            assert (homes == 1).all()
    assert rates["session"] > 1.2 * rates["round-robin"] and rates["prefix"] > 1.2 * rates["round-robin"], rates


def test_what_a_router_cannot_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--replicas", "2", "--router", "prefix", "--policy", "fcfs")
    assert "router prefix asks what prompts share, and no prefix is cached: it goes by load alone (the trace" in out
    out, _ = run(capsys, "--router", "random", "--policy", "fcfs")
    assert "there is one replica, which gets everything under any router: --replicas N makes more" in out
    out, _ = run(capsys, "--replicas", "2", "--router", "least-tokens", "--policy", "fcfs", "--predictor", "none")
    assert "router least-tokens asks for guesses, and nobody makes any: the mean of the answers so far is one" in out


def test_what_a_failed_replica_takes_with_it_is_not_put_down_to_memory(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--replicas", "2", "--policy", "fcfs", "--policy", "sj-mlfq", "--fail", "0@5:back@9")
    assert " truncated of 40 jobs" in out and "their replica failed ended with an error" in out
    assert "outgrew the KV pool" not in out
    assert out.count("preset=paper") == 1 and "\nsj-mlfq: preset=paper" in out


def test_settings_of_a_policy_stand_once_however_many_routers(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--replicas", "2", "--router", "random", "--router", "session", "--policy", "sj-mlfq")
    assert out.count("preset=paper") == 1 and "\nsj-mlfq: preset=paper" in out
