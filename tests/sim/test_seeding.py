"""python -m sim: synthetic workloads without a file, what seeds resample, and the line that says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sim
from fastserve.metrics.intervals import paired_ratio
from fastserve.workload import Synthesis
from sim.__main__ import main

TRACE = "traces/azure-conv-like.jsonl"
SYNTH = "n=60,rate=2,lengths=lognormal:4,1,1,500"
PAIR = ["--policy", "fcfs", "--policy", "las"]


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, *PAIR]) == 0
    return capsys.readouterr().out.replace("\n  ", " ")


def test_no_file_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "--synth", SYNTH, "--seeds", "4")
    assert "trace synthetic" in text and f"synth {Synthesis.parse(SYNTH)}" in text and "resample drawn" in text
    assert "95 % intervals over 4 seeds; each seed draws arrivals and requests anew\n" in text
    assert "] \n" not in text and text.count("[") == 1, "a bracket for the second row"
    document = sim.replay(synth=SYNTH, policy=["fcfs", "las"], seeds=4).document()
    assert document["settings"]["samples"] is None and document["settings"]["rate"] == 2
    lengths = [sim.replay(synth=SYNTH, seeds=[seed]).records()["prompt_tokens"].tolist() for seed in (0, 1)]
    assert sorted(lengths[0]) != sorted(lengths[1])


def test_a_load_sets_the_rate_of_a_synthetic_workload() -> None:
    """Of what the machine sustains on its lengths, alike for every n, seed and process of arrivals."""
    shown = [
        sim.replay(synth=synth, load=0.5, seeds=seeds).settings
        for synth, seeds in (("n=30", [0]), ("n=50,arrivals=gamma:cv=3", [2]), ("n=20,rate=9", [1]))
    ]
    assert len({one["rate"] for one in shown}) == 1 and all(one["load"] == pytest.approx(0.5) for one in shown)
    assert sim.replay(synth="n=30,rate=9", rate=3).settings["rate"] == 3


@pytest.mark.parametrize(("seeds", "line"), [("1", "one seed, so no interval"), ("2", "below 4"), ("3", "below 4")])
def test_no_bracket_below_four_seeds(capsys: pytest.CaptureFixture[str], seeds: str, line: str) -> None:
    text = out(capsys, "--synth", SYNTH, "--seeds", seeds)
    assert "[" not in text and line in text


def test_one_row_of_one_seed_has_nothing_to_say_of_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--synth", SYNTH]) == 0 and main(["--synth", SYNTH, "--policy", "fcfs"]) == 0
    assert "interval" not in capsys.readouterr().out.split("policy ")[-1]


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ([], "draw it anew in blocks of 22 successive requests (block bootstrap)"),
        (["--resample", "blocks"], "blocks of 22"),
        (["--resample", "pairs"], "re-pair it: the same arrivals, the requests behind them permuted"),
        (["--resample", "windows"], "each seed is another window, 100 successive requests of 1,000"),
    ],
)
def test_seeds_of_a_trace(capsys: pytest.CaptureFixture[str], how: list[str], line: str) -> None:
    text = out(capsys, TRACE, "--num-requests", "100", "--load", "0.8", "--seeds", "4", *how)
    assert line in text and text.count("[") == 1


def test_windows_that_overlap_give_no_bracket(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, TRACE, "--num-requests", "400", "--load", "0.8", "--seeds", "5", "--resample", "windows")
    assert "no interval: it takes 4 independent samples or more; each seed is another window, 400 successive" in text
    assert "they overlap, no more than 2 fit side by side" in text and "[" not in text


def test_seed_zero_is_the_trace() -> None:
    alone = sim.replay(TRACE, num_requests=80, load=0.8).runs[0]
    for how in ("blocks", "pairs", "windows"):
        runs = sim.replay(TRACE, num_requests=80, load=0.8, seeds=3, resample=how).runs
        if how != "windows":
            assert runs[0].records["jct_from_arrival"].tolist() == alone.records["jct_from_arrival"].tolist()
        assert len({tuple(run.records["prompt_tokens"].tolist()) for run in runs}) == 3
        assert all(len(run.records["id"]) == 80 for run in runs)


def test_a_pool_of_processes_gives_the_same() -> None:
    asked = {"synth": SYNTH, "policy": ["fcfs", "las"], "seeds": 2}
    here, away = sim.replay(**asked, processes=1), sim.replay(**asked, processes=2)  # type: ignore[arg-type]
    assert here.summaries().to_dict() == away.summaries().to_dict()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give a trace file, or a synthetic workload: --synth n=1000,rate=2"),
        ([TRACE, "--synth", SYNTH], "give one of the two"),
        (["--synth", "n=10,rat=2"], "no setting 'rat'; it has n, rate, arrivals"),
        (["--synth", "n=10"], "the synthetic workload has no rate: give rate=R (requests/s), or --rate or --load"),
        (["--synth", SYNTH, "--columns", "arrival=a"], "--columns is about reading a trace file"),
        (["--synth", SYNTH, "--for", "3"], "--for is about reading a trace file"),
        (["--synth", SYNTH, "--explain", "60"], "--explain 60: there is no such job; they are 0 to 59"),
        ([TRACE, "--resample", "jackknife"], "invalid choice: 'jackknife'"),
    ],
)  # fmt: skip
def test_usage(capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        raise SystemExit(main([*words, *PAIR]))
    assert why in capsys.readouterr().err


def test_files_say_how(tmp_path: Path) -> None:
    sim.replay(TRACE, num_requests=80, seeds=2).save(tmp_path)
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["resample"] == "blocks" and settings["samples"] == 1 and "block bootstrap" in settings["resampled"]


POOL = Path(__file__).parent / "fcfs_and_srpt.csv"
"""Mean completion times (s) under fcfs and srpt of the 1,600 seeds of scripts/interval_coverage.py, "poisson 0.7"."""


def test_the_pool_is_what_the_simulator_gives() -> None:
    machine = {"latency": "opt-13b-a100", "max_batch": 4, "load": 0.7}
    runs = sim.replay(synth="n=1000,lengths=profile:azure-conv-2023", policy=["fcfs", "srpt"], seeds=2, **machine).runs  # type: ignore[arg-type]
    found = [run.summary["mean_jct_s"] for run in runs]
    kept = np.loadtxt(POOL, delimiter=",", skiprows=1)
    assert found == pytest.approx([kept[0, 0], kept[1, 0], kept[0, 1], kept[1, 1]], rel=1e-4)


@pytest.mark.parametrize("seeds", [4, 5, 8])
def test_intervals_of_fcfs_over_srpt_hold_the_long_run_ratio(seeds: int) -> None:
    """Of 200 repetitions between 90 and 99 in a hundred; the percentile bootstrap, the rule before, held 79 to 85."""
    base, other = np.loadtxt(POOL, delimiter=",", skiprows=1).T
    truth = base.mean() / other.mean()
    pairs = zip(base.reshape(200, 8)[:, :seeds], other.reshape(200, 8)[:, :seeds], strict=True)
    found = [paired_ratio(a.tolist(), b.tolist()) for a, b in pairs]
    held = [low <= truth <= high for _, low, high in found if low is not None and high is not None]
    assert len(held) == 200 and 0.90 <= np.mean(held) <= 0.99


def test_a_synthetic_workload_longer_than_the_context_is_counted_by_its_own_requests(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--synth", "n=40,prompt=fixed:3000,output=fixed:10", "--load", "0.5", "--policy", "fcfs"]) == 0
    assert "40 of 40 requests are longer than the context" in " ".join(capsys.readouterr().out.split())
