"""experiments.fidelity: what is made of paired runs; and a pair itself, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("torch")

from experiments import _live, _sweep, fidelity
from experiments._case import Case, Row, Workload, points
from experiments._sweep import Outcome
from sim.one import Contender
from sim.settings import Settings


def rows(policy: str, live: list[float], simulated: list[float], load: float = 0.8) -> list[Row]:
    found = []
    for seed, (a, b) in enumerate(zip(live, simulated, strict=True)):
        numbers = {f"{of}_{m}": v for of, v in (("live", a), ("sim", b), ("hindsight", a)) for m in fidelity.ERRORS}
        numbers |= {"rate": 1.0, "load_average": 0.5, "scheduler_share": 0.001, "drift": {}, "live_jct": [a],
                    "sim_jct": [b]}  # fmt: skip
        found.append(Row({"policy": policy, "load": load, "residency": "proactive"}, seed, numbers))
    return found


def test_the_worst_error_is_that_of_a_median_and_has_no_sign() -> None:
    cells = points([*rows("fcfs", [1.0, 1.0, 1.0], [1.02, 1.03, 9.0]), *rows("srpt", [2.0] * 3, [1.8] * 3)])
    assert fidelity.error(cells[0], "mean_jct_s") == pytest.approx(0.03)
    assert fidelity.error(cells[1], "mean_jct_s") == pytest.approx(-0.1)
    assert fidelity.worst(cells) == pytest.approx(0.1)
    assert fidelity.worst(cells, "hindsight") == 0.0
    assert fidelity.worst(cells, "again") is None


def test_only_a_ranking_that_live_runs_settle_can_be_wrong() -> None:
    apart = [*rows("fcfs", [2.0, 2.1, 2.2], [1.0, 1.0, 1.0]), *rows("srpt", [1.0, 1.1, 1.2], [1.5, 1.5, 1.5])]
    assert fidelity.misranked(points(apart)) == ["fcfs and srpt at load 0.8, proactive"]
    overlapping = [*rows("fcfs", [1.0, 3.0], [1.0, 1.0]), *rows("srpt", [0.9, 2.5], [1.5, 1.5])]
    assert fidelity.misranked(points(overlapping)) == []
    other_load = [*rows("fcfs", [2.0, 2.1], [1.0, 1.0]), *rows("srpt", [1.0, 1.1], [1.5, 1.5], load=1.2)]
    assert fidelity.misranked(points(other_load)) == []


def test_the_document_is_json_with_the_two_verdicts(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"provenance": {}, "settings": {}}))
    all_rows = [*rows("fcfs", [1.0] * 3, [1.04] * 3), *rows("srpt", [0.5] * 3, [0.51] * 3)]
    document = fidelity.document(Outcome("fidelity", "smoke", tmp_path, all_rows, 1.0))
    json.dumps(document, allow_nan=False)
    assert document["worst_mean_jct_error"] == pytest.approx(0.04)
    assert document["ranking_equal"] is True
    assert [cell["policy"] for cell in document["cells"]] == ["fcfs", "srpt"]


def test_live_experiments_are_not_among_those_with_a_reference() -> None:
    assert not set(_sweep.LIVE) & set(_sweep.names())
    assert all(_sweep.load(name).SCALES for name in _sweep.LIVE)


def test_the_small_scale_is_the_published_one() -> None:
    small = fidelity.SCALES["small"]
    cells = set(small.cells)
    assert {(p, load, "proactive") for p in fidelity.POLICIES for load in (0.8, 0.95)} <= cells
    assert {(p, load, "proactive") for p in ("fcfs", "sj-mlfq") for load in fidelity.LOADS} <= cells
    assert {r for _, _, r in cells} == set(fidelity.RESIDENCIES)
    assert small.requests >= 400 and small.pairs >= 5


def test_the_simulation_has_the_live_schedulers_levels_and_pools() -> None:
    """Both are told of the same longest prompt, or skip-join MLFQ has another number of levels."""
    settings = _live.LiveSettings(longest=4096, max_batch=2)
    hardware = settings.hardware()
    scheduler = settings.scheduler(Contender("fcfs").fresh(), hardware, longest=7)
    assert scheduler.policy.machine.longest == 4096


def test_a_pair_runs_live_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr(_live, "ROOT", tmp_path)
    rig = _live.Rig(max_batch=2, kv_tokens=512, host_tokens=512, calibrate_s=0.5, load=0.9)
    workload = Workload(requests=4, lengths="", prompt="fixed:8", output="fixed:4")
    case = Case(at={}, workload=workload, settings=Settings(load=0.9), policy=Contender("sj-mlfq"), options=asdict(rig))
    try:
        numbers = fidelity.run(case)
    finally:
        torch.set_num_threads(threads)
    assert len(numbers["live_jct"]) == len(numbers["sim_jct"]) == 4
    assert min(numbers["live_jct"]) > 0 and min(numbers["sim_jct"]) > 0
    assert numbers["rate"] > 0 and 0 < numbers["scheduler_share"] < 1
    assert {"live_mean_jct_s", "sim_mean_jct_s", "hindsight_mean_jct_s"} <= set(numbers)
