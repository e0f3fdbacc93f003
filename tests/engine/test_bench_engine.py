"""make bench-engine: its comparisons are fair, it can be gone on with, and its table says what came out."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.backends.torch.families import write_config

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("bench_engine", "bench_engine_case", "bench_engine_report")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_engine

    yield bench_engine
    for name in NAMES:
        sys.modules.pop(name, None)


def options(bench: Any, into: Path, *arguments: str) -> argparse.Namespace:
    parsed: argparse.Namespace = bench.arguments().parse_args(["--into", str(into), "--model", str(into), *arguments])
    return parsed


def measured(run: Any) -> dict[str, Any]:
    """Ours makes 100 tokens a second; every other engine half as many, and policies and neighbours what they may."""
    if run.name == "policy":
        return {"rounds": {"fcfs": [10.0, 20.0, 30.0], "sj-mlfq": [9.9, 20.0, 27.0]},
                "preemptions": {"fcfs": 0, "sj-mlfq": 7}}  # fmt: skip
    if run.name == "crowd":
        return {"host_share": 0.03, "scheduler_share": 0.02, "waiting": 1001}
    speed = 50.0 if run.neighbour or run.name not in ("ours, native", "host", "alone") else 100.0
    return {"output_tok_s": speed, "mean_jct_s": 3.0, "host_share": 0.04, "scheduler_share": 0.001,
            "starts": [[1, 2], [3, 4 if speed == 100 else 5]]}  # fmt: skip


def test_every_other_engine_runs_between_two_runs_of_ours_and_the_order_turns(bench: Any, tmp_path: Path) -> None:
    made = bench.Bench(options(bench, tmp_path, "--rounds", "2"))
    runs = list(bench.plan(made.options, "/vllm/python"))
    series: dict[str, list[str]] = {}
    for run in runs:
        series.setdefault(run.series, []).append(run.name)
    assert [name for name in series if name.startswith("engines")] == [
        "engines, bfloat16, 1", "engines, float32, 1", "engines, bfloat16, 2", "engines, float32, 2",
    ]  # fmt: skip
    ours, pure, theirs = "ours, native", "PyTorch alone", "transformers' batching"
    assert series["engines, bfloat16, 1"] == [ours, pure, ours, theirs, ours, "vllm", ours]
    assert series["engines, bfloat16, 2"] == [ours, theirs, ours, "vllm", ours, pure, ours]
    assert series["neighbour, 1"] == ["alone", "beside a neighbour"]
    assert series["neighbour, 2"] == ["beside a neighbour", "alone"]
    compared = [run.case | made.base for run in runs if run.series.startswith("engines")]
    assert len({(case["cap"], case["threads"], case["requests"], case["model"]) for case in compared}) == 1
    assert [run.case.get("python") for run in runs if run.name == "vllm"] == ["/vllm/python"] * 4


def test_without_vllm_and_with_a_choice(bench: Any, tmp_path: Path) -> None:
    made = bench.Bench(
        options(bench, tmp_path, "--quick", "--only", "vllm", "--only", "PyTorch alone", "--dtype", "float32")
    )
    assert (made.options.requests, made.options.rounds) == (25, 1)
    assert [run.name for run in bench.plan(made.options, None)] == ["ours, native", "PyTorch alone", "ours, native"]


def test_a_run_that_was_cut_off_is_gone_on_with_by_whole_series(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "vllm_python", lambda: None)
    arguments = ["--rounds", "1", "--dtype", "bfloat16", "--dtype", "float32"]
    told: list[tuple[str, str]] = []
    left = [7]

    def measure(self: Any, run: Any) -> dict[str, Any]:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        told.append((run.series, run.name))
        return measured(run) | {"at": 0.0, "load_average": 0.5}

    monkeypatch.setattr(bench.Bench, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        bench.Bench(options(bench, tmp_path, *arguments)).run()
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    assert list(found["series"]) == ["engines, bfloat16, 1"]
    assert [len(partial) for partial in found["partial"].values()] == [2]
    told.clear()
    left[0] = 100
    assert bench.Bench(options(bench, tmp_path, "--resume", *arguments)).run() == 0
    ours = "ours, native"
    assert {series for series, _ in told[:5]} == {"engines, float32, 1"}
    assert [name for _, name in told[:5]] == [ours, "PyTorch alone", ours, "ours, half weights", ours]
    assert [path.name for path in tmp_path.glob("*.json")] == [file.name]
    assert set(json.loads(file.read_text())["series"]) == {
        "engines, bfloat16, 1", "engines, float32, 1", "policy", "host", "crowd", "neighbour, 1",
    }  # fmt: skip
    told.clear()
    assert bench.Bench(options(bench, tmp_path, "--resume", *arguments, "--cap", "9")).run() == 0
    assert len(told) == 17
    assert "no run of these settings" in capsys.readouterr().out


def test_the_table(bench: Any, tmp_path: Path) -> None:
    made = bench.Bench(options(bench, tmp_path, "--rounds", "2"))
    series: dict[str, list[dict[str, Any]]] = {}
    for run in bench.plan(made.options, "python"):
        series.setdefault(run.series, []).append({"name": run.name, "load_average": 0.5, **measured(run)})
    series["engines, float32, 2"][3] = {"name": "transformers' batching", "load_average": 0.5, "error": "no room"}
    text = bench.report(made.settings, series)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "bfloat16 ours, native 100.0 3.0" in lines
    assert "bfloat16 vllm 50.0 3.0 2.00 [2.00, 2.00] 50%" in lines
    assert "FAILED: engines, float32, 2: transformers' batching: no room" in lines
    assert lines[lines.index("") + 1 :] == [
        "bfloat16, ours over vLLM (1.1 is gone for): 2 (at least 0.95: met)",
        "float32, ours over vLLM: 2 (at least 1.3: met)",
        "bfloat16, ours over transformers' batching: 2 (at least 3: MISSED)",
        "bfloat16, PyTorch alone over vLLM: 1 (at least 0.4: met)",
        "sj-mlfq over fcfs in throughput, 7 preemptions: 0.99 (at least 0.97: met)",
        "times slower beside a process that holds one core: 2 (at most 3: met)",
        "share of an iteration outside the model: 0.04 (at most 0.05: met)",
        "the Scheduler's share with 1001 waiting: 0.02 (at most 0.01: MISSED)",
    ]
    assert all("not measured" in str(aim) for aim in sys.modules["bench_engine_report"].aims({}))


def test_a_process_that_fails_is_told_and_not_counted(bench: Any, tmp_path: Path) -> None:
    made = bench.Bench(options(bench, tmp_path))
    got = made.measure(bench.Run("host", "host", {"kind": "no such"}))
    assert got["error"].startswith("KeyError")


@pytest.fixture
def case(bench: Any, tmp_path: Path) -> dict[str, Any]:
    """Of a tiny model, in float32 so that engines can be held against each other."""
    settings = {"hidden_size": 64, "head_dim": 16, "max_position_embeddings": 2048}
    write_config(tmp_path, "llama", **settings)
    return {"model": str(tmp_path), "dtype": "float32", "threads": 1, "requests": 3, "cap": 4}


def test_the_engines_are_given_the_same_and_say_the_same(bench: Any, case: dict[str, Any]) -> None:
    """Ours with and without native kernels, and transformers' own."""
    kinds = sys.modules["bench_engine_case"]
    prompts, outputs = kinds.workload_of(case)
    assert [len(prompts), max(map(max, prompts)) < 96] == [3, True]
    ours = kinds.ours(case)
    pure = kinds.ours(case | {"native": "off"})
    theirs = kinds.transformers_own(case)
    assert [len(start) for start in ours["starts"]] == [kinds.STARTS] * 3
    assert ours["starts"] == pure["starts"] == theirs["starts"]
    assert pure["native"] is False
    for got in (ours, pure, theirs):
        assert got["output_tok_s"] == pytest.approx(sum(outputs) / got["seconds"])
        assert 0 < got["mean_jct_s"] <= got["seconds"]
    for got in (ours, pure):
        assert 0 < got["scheduler_share"] < got["host_share"] < 1
        assert got["preemptions"] == 0
        assert got["steps"] >= max(outputs)


def test_policies_and_a_crowd(bench: Any, case: dict[str, Any]) -> None:
    kinds = sys.modules["bench_engine_case"]
    got = kinds.alternated(case | {"requests": 6, "cap": 2, "rounds": 2})
    assert {name: len(speeds) for name, speeds in got["rounds"].items()} == {"fcfs": 2, "sj-mlfq": 2}
    assert got["preemptions"]["fcfs"] == 0 < got["preemptions"]["sj-mlfq"]
    crowd = kinds.crowded(case | {"waiting": 20, "seconds": 0.2})
    assert crowd["waiting"] >= 20
    assert 0 <= crowd["scheduler_share"] < 1
    with pytest.raises(SystemExit, match="7 tokens came instead of 8"):
        kinds.measured(1.0, [], [[1] * 3, [2] * 4], [4, 4])
