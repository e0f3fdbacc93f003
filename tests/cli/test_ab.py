"""`fastserve ab`, and the playback of a trace on an engine."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from fastserve.__main__ import main
from fastserve.cli.ab import text
from fastserve.compare.compare import Comparison, Replay, Round, Watch, compare, sustained
from fastserve.compare.contender import Contender
from fastserve.compare.offline import serving_of
from fastserve.compare.trace import check_fits
from fastserve.engine import Engine
from fastserve.engine.playback import play
from fastserve.metrics.summary import summarise
from fastserve.policies.spec import PolicySpec
from fastserve.sched.policy import Policy
from fastserve.workload import Trace, synthesise, write_trace
from fastserve.workload.requests import requests_of, within
from sim.run import run_one
from sim.settings import Settings
from sim.sustained import sustained_rate
from tests.observers.chrome_trace import check


class Unranked(Policy):
    pass


def small(n: int = 30, rate: float = 3.0) -> Trace:
    return synthesise(n, rate=rate, lengths="", prompt="lognormal:3.5,0.8,4,300", output="lognormal:2.5,1.0,1,90")


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "srpt"])
def test_a_replay_on_a_scripted_engine_is_the_simulation(policy: str) -> None:
    """One brain, two bodies: with the modelled times in both, job by job to the microsecond."""
    trace = small()
    serving = serving_of(PolicySpec(policy, {"levels": 6} if policy == "mlfq" else {}), {"max_batch": 4})
    settings = {"policy": policy, "knobs": dict(serving.policy.knobs), "predictor": serving.predictor, "max_batch": 4}
    with Engine.scripted(latency="opt-13b-a100", keep_records=None, **settings) as engine:
        live = play(engine, trace)
    simulated = run_one(trace, PolicySpec(policy, dict(serving.policy.knobs)), Settings(max_batch=4), 0).records
    assert live["output_tokens"].tolist() == trace.output.tolist()
    np.testing.assert_allclose(live["arrival"], simulated["arrival"], atol=1e-6)
    np.testing.assert_allclose(live["jct_from_arrival"], simulated["jct_from_arrival"], rtol=1e-4, atol=1e-5)
    assert live["preemptions"].tolist() == simulated["preemptions"].tolist()


def test_the_truth_does_not_leak_into_the_limit() -> None:
    trace = small(8)
    seen = []
    with Engine.scripted(policy="fcfs", keep_records=None) as engine:
        submit = engine.loop.scheduler.submit
        engine.loop.scheduler.submit = lambda job, now: (seen.append((job.limit, job.guess)), submit(job, now))[1]  # type: ignore[method-assign]
        play(engine, trace)
    assert set(seen) == {(int(trace.output.max()), None)}


def test_a_request_that_does_not_fit_is_named() -> None:
    with Engine.scripted(policy="fcfs", max_model_len=100) as engine, pytest.raises(ValueError, match="request 0 of"):
        play(engine, synthesise(2, rate=1, lengths="fixed:90"))


def a_duel(rounds: int = 4) -> Comparison:
    found = Comparison({"trace": "t"}, {})
    for number in range(rounds):
        for label, speed in (("fcfs", 1.0), ("srpt", 0.5)):
            with Engine.scripted(policy="fcfs", keep_records=None) as engine:
                records = play(engine, small(12).repaired(number))
            for name in ("jct_from_arrival", "ttft"):
                records[name] = records[name] * speed
            summary = summarise(records, horizon_s=float(records["end"].max()))
            found.rounds.append(Round(label, label, number, records, summary))
    return found


def test_ratios_are_of_the_baseline_over_the_row() -> None:
    found = a_duel()
    document = found.document(jobs=True)
    assert list(document["means"]) == ["fcfs", "srpt"] and list(document["ratios"]) == ["srpt"]
    ratio = document["ratios"]["srpt"]["mean_jct_s"]
    assert ratio == {"mean": pytest.approx(2.0), "low": pytest.approx(2.0), "high": pytest.approx(2.0)}
    assert document["ratios"]["srpt"]["preemptions_per_job"] is None  # nobody is preempted: there is no ratio
    assert len(document["rounds"]) == 8 and len(document["rounds"][0]["records"]["jct_from_arrival"]) == 12
    json.dumps(document, allow_nan=False)


def test_two_rounds_make_no_interval() -> None:
    few = a_duel(2)
    ratio = few.document()["ratios"]["srpt"]["mean_jct_s"]
    assert ratio == {"mean": pytest.approx(2.0), "low": None, "high": None}
    assert "no interval below 4 rounds" in text(few)
    assert "95 % intervals over 4 rounds" in text(a_duel(4)) and "2.00 [2.00, 2.00]" in text(a_duel(4))


def test_a_machine_that_changed_is_named() -> None:
    found = a_duel()
    assert found.warnings() == []
    slow = found.rounds[4]  # fcfs, third round
    slow.records["tpot_excl_first"] = slow.records["tpot_excl_first"] * 3
    (warning,) = found.warnings()
    assert warning.startswith("fcfs ") and ", fcfs 3: drift: the machine was not the same" in warning


def test_a_policy_without_a_rank_is_refused_before_it_runs() -> None:
    with pytest.raises(ValueError, match=r"Unranked must define rank\(self, job\)"):
        serving_of(Unranked, {})
    with pytest.raises(ValueError, match="--predictor constant:TOKENS"):
        Engine.scripted(policy="sjf")


def test_settings_are_rounded_and_wrapped() -> None:
    found = a_duel()
    found.settings |= {"rate": 6.877539515767466, "load": None, **{f"setting{i}": "x" * 20 for i in range(8)}}
    header = text(found).partition("policy ")[0]
    assert "rate 6.878," in header and "None" not in header and max(map(len, header.splitlines())) <= 100


def test_requests_beyond_the_context_are_counted_and_none_is_dropped() -> None:
    trace = synthesise(3, rate=1, lengths="", prompt="fixed:50", output="fixed:10")
    trace.prompt[1], trace.output[2] = 95, 40
    for context, limits in ((135, [40, 40, 40]), (110, [40, 15, 40])):
        check_fits(trace, context, "m")
        assert [request.limit for request in within(requests_of(trace), context)] == limits
    with pytest.raises(ValueError, match=r"1 of the 3 requests of .* context of m, 100 tokens \(the longest needs 105"):
        check_fits(trace, 100, "m")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        (["--trace", "nowhere.csv", "--offline"], "nowhere.csv"),
        (["--trace", "nowhere.csv", "--timeline", "t.json"], "need --offline"),
        (["--trace", "t", "--load", "1", "--url", "http://127.0.0.1:1"], "--rate"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ab", *arguments]) == 2
    assert said in capsys.readouterr().err


@dataclass
class Scripted:
    """A body whose iterations take the modelled times of an A100."""

    max_batch: int

    @property
    def about(self) -> dict[str, Any]:
        return {"max_batch": self.max_batch}

    def check(self, contender: Contender) -> None:
        pass

    def machine(self) -> dict[str, Any]:
        return {}

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        serving = serving_of(contender, {"max_batch": self.max_batch})
        with Engine.scripted(
            policy=contender.policy, predictor=serving.predictor, max_batch=self.max_batch, keep_records=None
        ) as engine:
            records = play(engine, trace, seed=seed, watch=watch)
        return Replay(records, summarise(records, horizon_s=float(records["end"].max())), {})


@pytest.mark.parametrize(("requests", "cap"), [(300, 8), (12, 8), (400, 16)])
def test_a_load_is_in_units_of_what_the_simulator_too_calls_sustained(requests: int, cap: int) -> None:
    """A trace shorter than a few batches is repeated; the drain, in which no batch is full, does not count."""
    trace = small(requests)
    found = sustained(Scripted(cap), trace)
    assert found == pytest.approx(sustained_rate(trace, Settings(max_batch=cap)), rel=0.1)
    run = compare(Scripted(cap), trace, [PolicySpec("fcfs")], rounds=1, load=0.5)
    assert run.settings["sustained_rps"] == found and run.settings["load"] == 0.5
    assert run.settings["rate"] == pytest.approx(0.5 * found, rel=1e-6)
    arrivals = run.rounds[0].records["arrival"]
    assert (len(trace) - 1) / (arrivals[-1] - arrivals[0]) == pytest.approx(0.5 * found, rel=1e-3)


def test_contenders_take_turns_on_the_same_trace() -> None:
    found = compare(Scripted(4), small(8), [PolicySpec("fcfs"), PolicySpec("srpt")], rounds=2, seed=3)
    assert [(run.label, run.number) for run in found.rounds] == [("fcfs", 0), ("srpt", 0), ("srpt", 1), ("fcfs", 1)]
    first, second, _, third = (run.records for run in found.rounds)
    for column in ("arrival", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(first[column], second[column])
    assert first["output_tokens"].tolist() != third["output_tokens"].tolist()
    assert found.settings["predictor"] == "oracle"


def test_what_a_duel_refuses() -> None:
    two = [PolicySpec("fcfs"), PolicySpec("fcfs")]
    with pytest.raises(ValueError, match="labels"):
        compare(Scripted(4), small(8), two)
    for wrong in ({"rounds": 0}, {"load": 0.0}, {"load": float("nan")}, {"load": 1.0, "rate": 1.0}):
        with pytest.raises(ValueError, match="give at least one round"):
            compare(Scripted(4), small(8), two[:1], **wrong)


def test_warnings_say_of_which_runs_they_are() -> None:
    found = a_duel()
    found.rounds[:2] = [replace(run, notes={"warnings": ["late"]}) for run in found.rounds[:2]]
    assert found.warnings() == ["fcfs 1, srpt 1: late"]


def test_the_command_compares_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "t.jsonl", tmp_path / "ab.json"
    write_trace(synthesise(5, rate=20, lengths="fixed:6"), trace)
    arguments = ["--policy", "fcfs", "--policy", "sj-mlfq", "--set", "alpha=0", "--label", "patient", "--rounds", "2"]
    engine = ["--max-batch", "2", "--kv-tokens", "256", "--host-tokens", "256", "--latency", "opt-13b-a100"]
    log = tmp_path / "iterations.csv"
    files = ["--out", str(out), "--iterations", str(log)]
    assert main(["ab", "--offline", "--json", "--trace", str(trace), *arguments, *engine, *files]) == 0
    assert log.read_text().count("\n") > 6, "of the first run"
    document = json.loads(capsys.readouterr().out)
    assert [(run["label"], run["round"]) for run in document["rounds"]] == [
        ("fcfs", 0), ("patient", 0), ("patient", 1), ("fcfs", 1),
    ]  # fmt: skip
    assert document["ratios"]["patient"]["mean_jct_s"]["low"] is None
    assert len(json.loads(out.read_text())["rounds"][0]["records"]["ttft"]) == 5


def test_objectives_bring_goodput_and_the_share_that_met_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.jsonl"
    write_trace(synthesise(8, rate=20, lengths="fixed:6"), trace)
    run = ["ab", "--offline", "--trace", str(trace), "--rounds", "1", "--policy", "fcfs", "--policy", "srpt",
           "--max-batch", "2", "--latency", "opt-13b-a100", "--backend", "scripted"]  # fmt: skip
    assert main([*run, "--slo", "ttft=60ms", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["slo"] == "ttft=0.06s"
    for run_of in document["rounds"]:
        summary = run_of["summary"]
        good = round(8 * summary["slo_attainment"])
        assert 0 < good < 8 and summary["goodput_rps"] == pytest.approx(good / summary["rate_window_s"])
    assert document["means"]["fcfs"]["goodput_rps"] == document["rounds"][0]["summary"]["goodput_rps"]
    assert main([*run, "--slo", "ttft=60ms,attain=1"]) == 0
    told = capsys.readouterr().out
    assert "TTFT p99  goodput/s  SLOs met" in told and "SLOs met: share of the requests" in told
    assert "attain=1: fcfs, srpt did not" in told
    assert main(run) == 0
    assert "goodput" not in capsys.readouterr().out
    assert main([*run, "--slo", "ttft"]) == 2
    assert "ttft has no value" in capsys.readouterr().err


def test_files_are_of_the_first_row_though_its_label_is_made(tmp_path: Path) -> None:
    """Two rows of one policy, labelled by what differs; --load measures fcfs first, whose run nobody asked for."""
    trace, lines = tmp_path / "t.csv", tmp_path / "i.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join([f"{i / 9},8,4\n" for i in range(6)]))
    rows = ["--policy", "mlfq", "--set", "levels=2", "--policy", "mlfq", "--set", "levels=3"]
    engine = ["--backend", "scripted", "--rounds", "1", "--load", "0.5", "--iterations", str(lines)]
    assert main(["ab", "--offline", "--json", "--trace", str(trace), *rows, *engine]) == 0
    with lines.open(encoding="utf-8") as file:
        ended = " ".join([row["ended"] for row in csv.DictReader(file)]).split()
    assert sorted(ended) == [str(i) for i in range(6)]


def test_lives_and_the_timeline_are_of_the_first_run_of_each_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, drawn = tmp_path / "t.csv", tmp_path / "t.json"
    rows = [f"{i / 50},{8 + 3 * i},{4 + 20 * (i % 3)}\n" for i in range(9)]
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows))
    both = ["--policy", "fcfs", "--policy", "mlfq", "--max-batch", "2", "--backend", "scripted", "--rounds", "2"]
    command = ["ab", "--offline", "--trace", str(trace), *both, "--load", "0.9", "--timeline", str(drawn)]
    assert main([*command, "--explain", "differs", "--explain", "4"]) == 0
    out = capsys.readouterr().out
    assert "worth a look with --explain: " in out
    job = re.search(r"^differs: job (\d), .* under (fcfs|mlfq), .* under (fcfs|mlfq)$", out, re.MULTILINE)
    assert job is not None
    for id in (job[1], "4"):
        for label in ("fcfs", "mlfq"):
            assert out.count(f"\njob {id} under {label}\n") == 1
    found = check(drawn.read_text())
    assert list(found.groups.values()) == ["fcfs", "mlfq"]
    for pid in found.groups:
        visits = {event["name"] for event in found.events if event["pid"] == pid and event.get("cat") == "visit"}
        assert visits == {f"job {id}" for id in range(9)}
    assert main([*command, "--json", "--explain", "slowest"]) == 0
    document = json.loads(capsys.readouterr().out)
    (life,) = document["explain"]
    assert life["job"] == document["notable"][0]["id"] and set(life["lives"]) == {"fcfs", "mlfq"}
