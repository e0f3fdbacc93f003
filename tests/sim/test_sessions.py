"""Sessions in the simulator: closed and open loop, against times by hand and a model of its own; what is measured."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments._lib.case import Case, Row, point, program_ratio, recorded, simulate, to_json
from fastserve.flightlog.replay import replay_log
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.workload import Trace, TraceError, write_trace
from sim import prefix_cache, replay
from sim.__main__ import main
from sim.prepared import Prepared
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings
from sim.told import told_first
from tests.sim.flight import flown

S = 1_000_000_000


def trace(
    programs: Sequence[Sequence[tuple[tuple[int, ...], float, int]]],
    starts: Sequence[float] | None = None,
    prompt: int = 10,
    ids: bool = False,
) -> Trace:
    """Of each program its requests: what each waits for (places in the program), think s, output tokens."""
    starts = list(starts or [0.0] * len(programs))
    flat = sorted([(starts[p] + i * 1e-3, p, i) for p, rows in enumerate(programs) for i in range(len(rows))])
    place = {(p, i): row for row, (_, p, i) in enumerate(flat)}
    turn = [i for _, _, i in flat]
    rows = [programs[p][i] for _, p, i in flat]
    arrival = np.array([round(at * S) for at, _, _ in flat], np.int64)
    prompts = np.array([prompt + 64 * i if ids else prompt for i in turn], np.int64)
    return Trace(
        "by-hand", "made", arrival - arrival[0], prompts, np.array([output for _, _, output in rows], np.int64),
        program=[f"p{p}" for _, p, _ in flat],
        after=[tuple(place[p, i] for i in before) for (before, _, _), (_, p, _) in zip(rows, flat, strict=True)],
        think=np.array([round(think * S) for _, think, _ in rows], np.int64),
        hash_ids=[[1000 * p + k for k in range(int(n) // 16)] for (_, p, _), n in zip(flat, prompts, strict=True)]
        if ids
        else None,
        block_size=16,
    )  # fmt: skip


def chain(*turns: tuple[float, int]) -> list[tuple[tuple[int, ...], float, int]]:
    """Turns one after the other: think s, output tokens."""
    return [(() if not i else (i - 1,), think, output) for i, (think, output) in enumerate(turns)]


def run(one: Trace, unit: str, policy: str = "fcfs", seed: int = 0, **settings: Any) -> Run:
    chosen = Settings(latency=unit, batching="mixed", kv_tokens="unlimited").with_(**settings)
    return run_one(one, PolicySpec(policy), chosen, seed)


def test_one_session_takes_its_turns_and_its_thoughts(unit: str) -> None:
    """Each token takes 100 ms, the first with the prefill: 0.3 + 2 + 0.5 + 1 + 0.1 s, then the next program."""
    found = run(trace([chain((0, 3), (2, 5), (1, 1)), chain((0, 4), (0.25, 2))]), unit, sessions=1)
    assert found.programs is not None
    assert found.records["arrival"].tolist() == [0.0, 3.9, 2.3, 4.55, 3.8]
    assert found.programs["time"].tolist() == pytest.approx([3.9, 0.85])
    assert found.programs["service"].tolist() == pytest.approx([0.9, 0.6])
    assert found.programs["alone"].tolist() == pytest.approx([3.9, 0.85])
    assert found.programs["slowdown"].tolist() == pytest.approx([1, 1])
    assert found.programs["first_arrival"].tolist() == [0.0, 3.9]
    assert found.records["turn"].tolist() == [1, 1, 2, 2, 3]


def test_with_room_for_all_each_runs_as_if_alone(unit: str) -> None:
    """Think times are whole iterations, so that nobody comes in the middle of one."""
    rng = random.Random(5)
    work = [chain(*[(rng.randrange(20) / 10, rng.randint(1, 9)) for _ in range(rng.randint(1, 6))]) for _ in range(30)]
    found = run(trace(work), unit, sessions=30)
    assert found.programs is not None
    assert found.programs["time"].tolist() == pytest.approx(found.programs["alone"].tolist())
    assert found.programs["stall_per_turn"].tolist() == pytest.approx([0] * 30)


def test_a_join_waits_for_the_last_of_its_branches(unit: str) -> None:
    fork = [((), 0, 2), ((0,), 1, 10), ((0,), 1, 3), ((1, 2), 0.5, 1)]
    found = run(trace([fork]), unit)
    assert found.records["arrival"].tolist() == pytest.approx([0, 1.2, 1.2, 2.7])
    assert found.programs is not None and found.programs["time"].tolist() == pytest.approx([2.8])


class Queue:
    """A model of its own: one server, first come first served, 100 ms a token, programs in closed loop."""

    def __init__(self, one: Trace, sessions: int) -> None:
        assert one.after is not None and one.think is not None and one.program is not None
        homes = list(dict.fromkeys(one.program))
        left = {home: one.program.count(home) for home in homes}
        waiting = homes[sessions:]
        due: list[tuple[int, int]] = []
        self.times: dict[int, tuple[int, int]] = {}

        def begin(home: str, now: int) -> None:
            rows = [row for row, name in enumerate(one.program or ()) if name == home and not (one.after or ())[row]]
            for row in rows:
                heappush(due, (now + int(one.arrival[row] - one.arrival[rows[0]]), row))

        for home in homes[:sessions]:
            begin(home, 0)
        free = 0
        while due:
            at, row = heappop(due)
            free = max(free, at) + int(one.output[row]) * S // 10
            self.times[row] = at, free
            for other, before in enumerate(one.after):
                if row in before and all(b in self.times for b in before):
                    heappush(due, (max(self.times[b][1] for b in before) + int(one.think[other]), other))
            left[one.program[row]] -= 1
            if not left[one.program[row]] and waiting:
                begin(waiting.pop(0), free)


@pytest.mark.parametrize("sessions", [1, 2, 5])
def test_one_slot_in_closed_loop_is_a_queue(unit: str, sessions: int) -> None:
    """Nobody comes at a time at which another does, so that what is decided first is no matter."""
    for seed in range(12):
        rng = random.Random(seed)
        work = []
        for _ in range(8):
            rows: list[tuple[tuple[int, ...], float, int]] = [((), 0.0, rng.randint(1, 8))]
            for i in range(1, rng.randint(2, 7)):
                before = tuple(sorted(rng.sample(range(i), rng.randint(1, min(i, 2)))))
                rows.append((before, rng.randrange(1, 3_000_000_000) / S, rng.randint(1, 8)))
            work.append(rows)
        one = trace(work)
        records = run(one, unit, sessions=sessions, max_batch=1).records
        model = Queue(one, sessions).times
        for row in range(len(one)):
            mine = round(records["arrival"][row] * S), round(records["end"][row] * S)
            assert mine == model[row], (seed, row)


def test_programs_begin_by_themselves_at_a_rate(unit: str) -> None:
    one = trace([chain((0, 2), (1, 2))] * 200)
    found = run(one, unit, program_rate=0.5)
    assert found.programs is not None
    begun = np.sort(found.programs["first_arrival"])
    assert begun[-1] == pytest.approx(400, rel=0.2)
    assert found.summary["saturated"] is False
    other = run(one, unit, policy="srpt", program_rate=0.5)
    assert other.programs is not None
    assert other.programs["first_arrival"].tolist() == found.programs["first_arrival"].tolist()
    assert run(one, unit, program_rate=50.0, max_batch=1).summary["saturated"] is True


def test_recorded_starts_are_kept_where_nothing_else_is_asked(unit: str) -> None:
    found = run(trace([chain((0, 2), (1, 2)), chain((0, 3), (1, 1))], starts=[0, 40]), unit)
    assert found.records["arrival"].tolist() == pytest.approx([0, 1.2, 40, 41.3])
    assert found.summary["program_window_s"] == pytest.approx(41.4)


def test_open_loop_comes_as_recorded_and_counts_what_no_client_can_do(unit: str) -> None:
    one = trace([chain((0, 9), (1, 2)), chain((0, 3), (1, 1))], starts=[0, 40])
    found = run(one, unit, open_loop=True)
    assert found.records["arrival"].tolist() == pytest.approx([0, 0.001, 40, 40.001])
    assert found.summary["early_requests"] == 2
    assert "compare policies in closed loop" in " ".join(told_first(Settings(open_loop=True), one))
    assert run(one, unit).summary["early_requests"] is None


def test_clients_give_up_and_their_programs_with_them(unit: str) -> None:
    """One slot: b waits for a's 30 tokens, gives up after 2 s, and c, whose turn it is then, waits for a too."""
    one = trace([chain((0, 30), (1, 1)), chain((0, 5), (1, 5), (1, 5)), chain((0, 4))])
    found = run(one, unit, sessions=2, max_batch=1, client_timeout=2.0)
    assert found.programs is not None
    words = dict(zip(found.programs["program"], found.programs["finish"], strict=True))
    assert words == {"p0": "completed", "p1": "abandoned", "p2": "completed"}
    gone = found.records["finish"] == "gave_up"
    assert found.records["end"][gone].tolist() == [2.0]
    assert found.programs["first_arrival"].tolist()[2] == 2.0, "the next program takes the place"
    assert len(found.records["id"]) == 4
    keys = ("programs", "programs_completed", "programs_abandoned", "abandoned_requests", "gave_up", "n", "cancelled")
    assert [found.summary[key] for key in keys] == [3, 2, 1, 2, 1, 4, 1]
    assert found.summary["not_arrived"] == 0


def test_a_token_that_comes_after_the_client_has_gone_finds_nobody(unit: str) -> None:
    """It would come at 0.1 s, with the iteration in which the client gives up."""
    found = run(trace([chain((0, 5), (1, 1))]), unit, client_timeout=0.05)
    assert found.records["finish"].tolist() == ["gave_up"]
    found = run(trace([chain((0, 5), (1, 1))]), unit, client_timeout=0.1)
    assert found.records["finish"].tolist() == ["stop", "stop"]


def test_a_client_gives_up_in_a_trace_without_programs_too(unit: str) -> None:
    one = replace(trace([chain((0, 30)), chain((0, 5))]), after=None, think=None, program=None)
    found = run(one, unit, max_batch=1, client_timeout=1.0)
    assert found.records["finish"].tolist() == ["stop", "gave_up"]
    assert found.programs is not None and len(found.programs["time"]) == 2


def test_what_can_never_run_abandons_what_follows(unit: str) -> None:
    one = trace([chain((0, 1), (1, 1)), chain((0, 1), (1, 1), (0, 1)), chain((0, 2))])
    prompt = one.prompt.copy()
    prompt[one.program.index("p1")] = 10_000  # type: ignore[union-attr]
    found = run(replace(one, prompt=prompt), unit, sessions=1, kv_tokens=1600)
    assert found.programs is not None
    assert found.programs["finish"].tolist() == ["completed", "abandoned", "completed"]
    assert found.programs["abandoned"].tolist() == [0, 2, 0]
    assert found.summary["abandoned_requests"] == 2 and found.summary["rejected"] == 1
    assert found.programs["first_arrival"].tolist() == pytest.approx([0, 1.2, 1.2])


def conversations(talks: int = 4, turns: int = 5, think: float = 1.0, output: int = 1) -> Trace:
    return trace([chain(*[(think * (i > 0), output) for i in range(turns)])] * talks, prompt=64, ids=True)


def test_what_was_forgotten_and_computed_again_is_told(unit: str) -> None:
    """Whatever an unlimited cache would have found is found, or was forgotten."""
    free = run(conversations(), unit, sessions=2)
    assert free.summary["evicted_tokens"] == 0 == free.summary["recomputed_tokens"]
    assert free.summary["hit_rate"] == free.summary["hit_rate_unlimited"]
    tight = run(conversations(), unit, sessions=2, kv_tokens=400)
    evicted, cached = tight.records["evicted_tokens"], tight.records["cached_tokens"]
    assert evicted.sum() > 0
    assert (evicted + cached).tolist() == free.records["cached_tokens"].tolist()
    assert tight.summary["evicted_tokens"] == evicted.sum() == tight.summary["recomputed_tokens"]
    off = run(conversations(), unit, sessions=2, prefix_cache="off")
    assert off.summary["hit_rate_unlimited"] is None and off.summary["evicted_tokens"] == 0


@pytest.mark.parametrize("settings", [{"warmup": 0.5}, {"kv_tokens": 300}, {"kv_tokens": 400, "warmup": 0.5}])
def test_an_unlimited_cache_is_of_the_requests_that_count(unit: str, settings: dict[str, float]) -> None:
    found = run(conversations(), unit, sessions=2, **settings).summary
    whole = run(conversations(), unit, sessions=2).summary["hit_rate_unlimited"]
    assert 0 <= found["hit_rate"] <= found["hit_rate_unlimited"] != whole
    assert found["hit_rate_unlimited"] == found["hit_rate"] + found["evicted_share"]


def test_alone_is_with_everything_cached(unit: str, tmp_path: Path) -> None:
    """A prefill chunk takes 100 ms: the first turn has four of them, what follows has one, and a decode each."""
    one = trace([chain((0, 2), (1, 2))] * 3, prompt=256, ids=True)
    found = run(one, unit, sessions=1, batching="chunked", token_budget=64, max_batch=8)
    assert found.programs is not None
    assert found.programs["alone"].tolist() == pytest.approx([0.5 + 1 + 0.2] * 3)
    assert found.programs["slowdown"].tolist() == pytest.approx([1] * 3)
    assert found.programs["stall_per_turn"].tolist() == pytest.approx([0] * 3, abs=1e-9)


def test_rates_are_counted_while_all_sessions_are_at_work(unit: str) -> None:
    """Two at once of three: the first two run 2 and 4 s, the third from 2 to 3 s. Then one is left."""
    found = run(trace([chain((0, 20)), chain((0, 40)), chain((0, 10))]), unit, sessions=2)
    assert found.summary["program_window_s"] == pytest.approx(3)
    assert found.summary["programs_per_hour"] == pytest.approx(2 / 3 * 3600)
    assert found.summary["throughput_rps"] == pytest.approx(2 / 3)
    assert found.summary["output_tokens_per_s"] == pytest.approx((20 + 30 + 10) / 3, rel=0.05)
    assert found.summary["at_work_mean"] == pytest.approx(2)
    assert found.summary["saturated"] is None
    whole = run(trace([chain((0, 20)), chain((0, 40)), chain((0, 10))]), unit)
    assert whole.summary["programs_per_hour"] == pytest.approx(3 / 4 * 3600)


@pytest.mark.parametrize("name", ["fcfs", "sj-mlfq", "tests.sim.test_sessions:Sleeps"])
def test_a_closed_loop_replays_from_its_flight_log(name: str, unit: str, tmp_path: Path) -> None:
    """With cancels of clients that give up, what each request finds of the one before, tools, ends and ticks."""
    path = tmp_path / "flight.jsonl"
    settings = Settings(latency=unit, kv_tokens=600, max_batch=2, sessions=4, client_timeout=4.0)
    one = conversations(12, output=40)
    world, events = flown(replace(one, tool=["bash"] * len(one)), name, settings, path)
    report = replay_log(path)
    told = Counter(event.get("event") for event in events)
    assert report.difference is None and report.plans == told["plan"] >= world.scheduler.plans
    assert told["end_program"] == 12
    assert bool(told["tick"]) is name.endswith("Sleeps")
    assert bool(told["cancel"]) is (name != "sj-mlfq"), "it keeps nobody waiting"
    assert any(event["plan"]["found"] for event in events if event.get("plan"))
    assert any("calls" in event for event in events) and any("tool" in event for event in events)


def test_policies_and_processes_meet_the_same_programs(unit: str) -> None:
    one = conversations(12)
    settings = Settings(latency=unit, kv_tokens=2000, sessions=3)
    here = replay(one, ["fcfs", "srpt"], seeds=3, settings=settings, processes=1)
    away = replay(one, ["fcfs", "srpt"], seeds=3, settings=settings, processes=2)
    for mine, other in zip(here.runs, away.runs, strict=True):
        assert (mine.label, mine.seed, mine.summary) == (other.label, other.seed, other.summary)
    by = {(run.policy, run.seed): run.programs for run in here.runs}
    for seed in range(3):
        fcfs, srpt = by["fcfs", seed], by["srpt", seed]
        assert fcfs is not None and srpt is not None
        assert fcfs["program"].tolist() == srpt["program"].tolist()
    assert len(here.programs()) == 2 * 3 * 12
    assert "ratios are paired over 12 programs, each averaged over 3 seeds" in " ".join(str(here).split())


def test_content_is_made_once_for_all_policies(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    content = prefix_cache.content
    monkeypatch.setattr(prefix_cache, "content", lambda *a: (made.append(1), content(*a))[1])
    settings = Settings(latency=unit, kv_tokens=2000, sessions=3)
    replay(conversations(), ["fcfs", "srpt", "las"], settings=settings, processes=1)
    assert len(made) == 1
    prepared = Prepared()
    one = conversations()
    first = prepared.content(one, settings)
    assert prepared.content(one, settings) is first
    assert prepared.content(one, settings.with_(prefix_cache="off")) is None
    assert prepared.content(conversations(), settings) is not first


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"load": 0.8}, "give --sessions .* --program-rate .* or --open-loop"),
        ({"load": 0.8, "sessions": 3}, "load stretches recorded arrivals, and sessions leaves these no say"),
        ({"rate": 0.8, "program_rate": 3.0}, "rate stretches recorded arrivals, and program_rate leaves these no say"),
    ],
)
def test_a_load_is_of_requests_that_come_by_themselves(settings: dict[str, Any], why: str, unit: str) -> None:
    with pytest.raises((TraceError, ValueError), match=why):
        replay(conversations(), settings=Settings(latency=unit), processes=1, **settings)


def test_a_load_is_taken_in_open_loop(unit: str) -> None:
    result = replay(conversations(think=0.3), settings=Settings(latency=unit), processes=1, load=0.5, open_loop=True)
    assert result.settings["load"] == pytest.approx(0.5)


def test_plain_traces_say_nothing_of_sessions(unit: str) -> None:
    plain = replace(conversations(), after=None, think=None, program=None, hash_ids=None)
    result = replay(plain, settings=Settings(latency=unit), processes=1, rate=1.0)
    assert "sessions" not in result.settings and "programs" not in str(result)
    assert result.runs[0].programs is None and result.runs[0].summary["programs_per_hour"] is None
    with pytest.raises(ValueError, match="no run had sessions"):
        result.programs()
    assert told_first(Settings(), plain) == []
    idle = told_first(Settings(host_prefix_tokens=64, think_cap=5), plain)
    assert idle == [
        "host_prefix_tokens=64 changes nothing: no prefix is cached",
        "think_cap=5 changes nothing: no request of this trace waits for another",
    ]


def test_the_command_line_has_it_all(unit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agents.jsonl"
    write_trace(conversations(), path)
    csv = tmp_path / "programs.csv"
    command = [
        str(path), "--latency", unit, "--policy", "fcfs", "--policy", "srpt", "--sessions", "2", "--think-cap", "0.5",
        "--kv-tokens", "2000", "--programs-csv", str(csv), "--out", str(tmp_path / "out"), "--plot",
    ]  # fmt: skip
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.startswith("prefix cache on: the trace has block ids of 16 tokens and programs\nclosed loop: 2 at once")
    assert "programs an hour" in told and "ratios are paired over 4 programs" in told
    lines = csv.read_text().splitlines()
    assert len(lines) == 1 + 2 * 4 and "first_arrival" in lines[0]
    assert (tmp_path / "out" / "programs.csv").read_text() == csv.read_text()
    assert (tmp_path / "out" / "program_cdf.pdf").exists()


class Listens(Policy):
    """Notes what it is told of tools and ends."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, str]] = []
        self.met: list[tuple[str, str]] = []

    def rank(self, job: Job) -> int:
        return job.arrival

    def arrive(self, job: Job) -> None:
        self.met.append((job.program, job.tool))

    def depart(self, job: Job) -> None:
        self.heard.append((self.now, job.program, job.calls))

    def ended(self, program: str) -> None:
        self.heard.append((self.now, program, "over"))


@pytest.mark.parametrize("ids", [True, False])
def test_a_policy_hears_of_tools_and_of_the_end_of_a_program(ids: bool, unit: str) -> None:
    one = trace([chain((0, 2), (1, 1)), chain((0, 3))], ids=ids)
    one = replace(one, tool=["bash" if row == 0 else "" for row in range(3)])
    made = []

    def make() -> Listens:
        made.append(Listens())
        return made[-1]

    run_one(one, PolicySpec(make), Settings(latency=unit, sessions=1), 0)
    policy = made[-1]
    assert policy.met == [("p0", ""), ("p0", "bash"), ("p1", "")]
    mine = [(at / S, *rest) for at, *rest in policy.heard]
    assert mine == [
        (0.2, "p0", "bash"), (1.3, "p0", ""), (1.3, "p0", "over"), (1.6, "p1", ""), (1.6, "p1", "over"),
    ]  # fmt: skip


class Sleeps(Policy):
    """Holds everybody back for two seconds."""

    def rank(self, job: Job) -> int:
        return job.arrival

    def arrive(self, job: Job) -> None:
        self.hold(job)
        self.wake(job, waited=2 * S)

    def alarm(self, job: Job, why: str) -> None:
        self.release(job)


def test_what_is_held_back_is_woken_and_told(unit: str) -> None:
    found = run_one(trace([chain((0, 2), (1, 1))]), PolicySpec(Sleeps), Settings(latency=unit, sessions=1), 0)
    assert found.records["held_s"].tolist() == [2, 2]
    assert found.summary["held_mean_s"] == found.summary["held_max_s"] == 2
    assert found.records["arrival"].tolist() == pytest.approx([0, 3.2])


def test_an_experiment_takes_sessions_and_pairs_its_policies_by_program(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "agents.jsonl"
    write_trace(conversations(6, output=8), path)
    rows = []
    for policy in ("fcfs", "srpt"):
        for seed in range(2):
            settings = Settings(latency=unit, sessions=3, max_batch=1)
            case = Case(
                at={"policy": policy}, workload=recorded(path, 10**6), settings=settings, policy=PolicySpec(policy),
                seed=seed,
            )  # fmt: skip
            rows.append(Row(case.at, seed, to_json(simulate(case))))
    fcfs, srpt = (point(rows, policy=policy) for policy in ("fcfs", "srpt"))
    ratio = program_ratio(fcfs, srpt)
    assert ratio is not None and ratio.low is not None and ratio.low <= ratio.mean
    assert fcfs.mean("program_time_mean_s") / srpt.mean("program_time_mean_s") == pytest.approx(ratio.mean, rel=0.1)
    assert fcfs.rows[0].numbers["load"] is None and fcfs.status == "ok"


def test_the_command_line_says_what_to_give_instead_of_a_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agents.jsonl"
    write_trace(conversations(), path)
    assert main([str(path), "--load", "0.8"]) == 2
    assert "give --sessions (programs at once), --program-rate (programs a second)" in capsys.readouterr().err
    plain = tmp_path / "plain.jsonl"
    write_trace(replace(conversations(), after=None, think=None, program=None, hash_ids=None), plain)
    assert main([str(plain), "--programs-csv", str(tmp_path / "x.csv")]) == 2
    assert "--sessions N makes one of each request" in capsys.readouterr().err
