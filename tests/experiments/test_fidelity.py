"""experiments.fidelity: what is made of paired runs; and a pair itself, on the embedded model."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from experiments import fidelity
from experiments._lib import errors, fault_injection, live
from experiments._lib import sweep as sweeping
from experiments._lib.case import Case, Row, Workload, points
from experiments._lib.speed_trace import SpeedTrace
from experiments._lib.sweep import Outcome
from fastserve.hardware import load_hardware
from sim.run import Contender
from sim.settings import Settings


def rows(policy: str, live: list[float], simulated: list[float], load: float = 0.8) -> list[Row]:
    found = []
    for seed, (a, b) in enumerate(zip(live, simulated, strict=True)):
        numbers: dict[str, Any] = {
            f"{of}_{m}": v
            for of, v in (("live", a), ("sim", b), ("tempo", 1.01 * a), ("hindsight", 1.02 * a))
            for m in errors.ERRORS
        }
        numbers |= {"rate": 1.0, "load_average": 0.5, "scheduler_share": 0.001, "drift": {}, "tempo": [0.9, 1.2],
                    "live_jct": [a], "sim_jct": [b]}  # fmt: skip
        found.append(Row({"policy": policy, "load": load, "residency": "proactive"}, seed, numbers))
    return found


def test_the_worst_error_is_that_of_a_median_and_has_no_sign() -> None:
    cells = points([*rows("fcfs", [1.0, 1.0, 1.0], [1.02, 1.03, 9.0]), *rows("srpt", [2.0] * 3, [1.8] * 3)])
    assert errors.error(cells[0], "mean_jct_s") == pytest.approx(0.03)
    assert errors.error(cells[1], "mean_jct_s") == pytest.approx(-0.1)
    assert errors.worst(cells) == pytest.approx(0.1)
    assert errors.worst(cells, "tempo", "p95_jct_s") == pytest.approx(0.01)
    assert errors.worst(cells, "hindsight") == pytest.approx(0.02)
    assert errors.worst(cells, "again") is None


def test_only_a_ranking_that_live_runs_settle_can_be_wrong() -> None:
    apart = [*rows("fcfs", [2.0, 2.1, 2.2], [1.0, 1.0, 1.0]), *rows("srpt", [1.0, 1.1, 1.2], [1.5, 1.5, 1.5])]
    assert errors.misranked(points(apart)) == ["fcfs and srpt at load 0.8, proactive"]
    overlapping = [*rows("fcfs", [1.0, 3.0], [1.0, 1.0]), *rows("srpt", [0.9, 2.5], [1.5, 1.5])]
    assert errors.misranked(points(overlapping)) == []
    other_load = [*rows("fcfs", [2.0, 2.1], [1.0, 1.0]), *rows("srpt", [1.0, 1.1], [1.5, 1.5], load=1.2)]
    assert errors.misranked(points(other_load)) == []


def test_the_document_is_json_with_the_two_verdicts(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"provenance": {}, "settings": {}}))
    all_rows = [*rows("fcfs", [1.0] * 3, [1.04] * 3), *rows("srpt", [0.5] * 3, [0.51] * 3)]
    document = errors.document(Outcome("fidelity", "smoke", tmp_path, all_rows, 1.0))
    json.dumps(document, allow_nan=False)
    assert document["worst_mean_jct_error"] == pytest.approx(0.04)
    assert document["ranking_equal"] is True and document["pairs_that_live_runs_rank"] == 1
    assert document["worst_mean_jct_error_at_the_machines_tempo"] == pytest.approx(0.01)
    assert document["worst_mean_jct_error_with_the_runs_own_times"] == pytest.approx(0.02)
    assert document["worst_single_run"]["sim"] == pytest.approx(0.04)
    assert document["cells"][1]["errors_at_the_machines_tempo"]["p99_jct_s"] == pytest.approx(0.01)
    assert document["cells"][0]["tempo"] == {"lowest": 0.9, "mean": pytest.approx(1.05), "highest": 1.2}
    assert [cell["policy"] for cell in document["cells"]] == ["fcfs", "srpt"]


def test_live_experiments_are_not_among_those_with_a_reference() -> None:
    assert not set(sweeping.LIVE) & set(sweeping.names())
    assert all(sweeping.load(name).SCALES for name in sweeping.LIVE)


def test_the_small_scale_is_the_published_one() -> None:
    small = fidelity.SCALES["small"]
    cells = set(small.cells)
    assert {(p, load, "proactive") for p in fidelity.POLICIES for load in (0.8, 0.95)} <= cells
    assert {(p, load, "proactive") for p in ("fcfs", "sj-mlfq") for load in fidelity.LOADS} <= cells
    assert {r for _, _, r in cells} == set(fidelity.RESIDENCIES)
    assert small.requests >= 400 and small.pairs >= 5


def test_a_second_live_run_is_a_case_of_its_own_and_is_joined_with_the_first() -> None:
    cases = fidelity.cases(fidelity.SCALES["smoke"])
    assert [(case.at["policy"], "again" in case.at, case.options["again"]) for case in cases[:3]] == [
        ("fcfs", False, False), ("fcfs", True, True), ("sj-mlfq", False, False),
    ]  # fmt: skip
    first, second, other = rows("fcfs", [2.0], [1.0])[0], rows("fcfs", [2.0], [1.0])[0], rows("srpt", [1.0], [1.0])[0]
    second = Row(second.at | fidelity.AGAIN, 0, {"again_mean_jct_s": 3.0})
    joined = fidelity.joined([first, second, other])
    assert [row.at["policy"] for row in joined] == ["fcfs", "srpt"]
    assert joined[0].numbers == first.numbers | second.numbers
    assert errors.error(points(joined)[0], "mean_jct_s", "again") == pytest.approx(0.5)
    assert joined[1].numbers == other.numbers


def test_a_place_is_of_this_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ROOT", tmp_path)
    whole = [f"{name}/code.py" if not name.endswith(".py") else name for name in live.SOURCES]
    sources = (*live.PAIR, *whole)
    for name in sources:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    seen = [live.here(), live.here(*live.PAIR)]
    for name in sources:
        (tmp_path / name).write_text("b")
        seen.append(live.here(*live.PAIR))
    assert len(set(seen)) == len(sources) + 2 and live.here(*live.PAIR) == seen[-1]
    with pytest.raises(FileNotFoundError, match="no source"):
        live.here("gone.py")
    without = live.here(
        packages=("a-package-that-nobody-has",)
    )  # where there is no engine, a page asks for runs all the same
    assert len(without) == 16 and without not in seen


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_a_calibration_is_of_one_live_run_and_the_same_once_more(scale: str) -> None:
    cases = fidelity.cases(fidelity.SCALES[scale])
    moments = [live._moment(case, live.Rig(**case.options)) for case in cases]
    shared = [(one, other) for (one, a), (other, b) in pairwise(zip(cases, moments, strict=True)) if a == b]
    assert [(one.at | fidelity.AGAIN, one.seed) for one, _ in shared] == [(case.at, case.seed) for _, case in shared]
    assert len(set(moments)) == len(cases) - len(shared)


def test_small_is_planned_to_last_less_than_a_hundred_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fcfs at 10 requests/s, which the embedded model sustains of this workload on one core of a usual machine."""
    monkeypatch.setattr(live, "_body", lambda *_: None)
    monkeypatch.setattr(live, "_kept", lambda *_: 10.0)
    cases = fidelity.cases(fidelity.SCALES["small"])
    said = live.plan(cases)
    found = re.fullmatch(r"(\d+) live runs and (\d+) calibrations: about (\d+) minutes .*", said)
    assert found is not None
    runs, calibrations, minutes = map(int, found.groups())
    assert runs == len(cases) == 90
    assert calibrations == 5 * len(fidelity.SCALES["small"].cells)  # live again shares that of its pair
    seconds = calibrations * 6 + sum(400 / 10 / min(1.0, case.options["load"]) for case in cases)
    assert minutes == round(seconds / 60) < 100
    assert 40 <= seconds / runs <= 120  # long enough that a run is more than its start and its drain


def test_what_fcfs_sustains_is_kept_for_the_very_same_rig_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    body: Any = SimpleNamespace(model=SimpleNamespace(device="cpu", native=None))
    workload = Workload(requests=40, lengths="", prompt="fixed:8", output="fixed:4")
    rig = live.Rig(max_batch=2, place="here")
    hardware = load_hardware("opt-13b-a100")
    found = live.sustained(workload, rig, body, hardware)
    assert live._kept(workload, rig, body) == found
    assert live.sustained(workload, rig, body, load_hardware("opt-66b-a100")) == found  # the first one stays
    others = [replace(rig, **change) for change in (
        {"model": "x"}, {"options": (("dtype", "bfloat16"),)}, {"backend": "onnx"}, {"max_batch": 3}, {"kv_tokens": 64},
        {"place": "there"},
    )]  # fmt: skip
    assert [live._kept(workload, other, body) for other in others] == [None] * len(others)
    assert live._kept(replace(workload, output="fixed:5"), rig, body) is None
    monkeypatch.setattr(live, "fingerprint", lambda: "another brain")
    assert live._kept(workload, rig, body) is None


def test_the_simulation_has_the_live_schedulers_levels_and_pools() -> None:
    """Both are told of the same longest prompt, or skip-join MLFQ has another number of levels."""
    settings = live.LiveSettings(longest=4096, max_batch=2)
    hardware = settings.hardware()
    scheduler = settings.scheduler(Contender("fcfs").fresh(), hardware, longest=7)
    assert scheduler.policy.machine.longest == 4096
    assert scheduler.policy.machine.context == 4096


def test_a_pair_runs_live_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rig = live.Rig(max_batch=2, kv_tokens=512, host_tokens=512, calibrate_s=0.5, load=0.9)
    workload = Workload(requests=4, lengths="", prompt="fixed:8", output="fixed:4")
    case = Case(at={}, workload=workload, settings=Settings(load=0.9), policy=Contender("sj-mlfq"), options=asdict(rig))
    try:
        numbers = fidelity.run(case)
        second = fidelity.run(replace(case, options=asdict(replace(rig, again=True))))
    finally:
        torch.set_num_threads(threads)
    assert len(numbers["live_jct"]) == len(numbers["sim_jct"]) == len(numbers["tempo_jct"]) == 4
    assert min(numbers["live_jct"]) > 0 and min(numbers["sim_jct"]) > 0
    assert numbers["rate"] > 0 and 0 < numbers["scheduler_share"] < 1
    assert {f"{of}_mean_jct_s" for of in ("live", "sim", "tempo", "hindsight")} <= set(numbers)
    told = live.resimulated(case, numbers, case.policy, rig, SpeedTrace(tuple(numbers["tempo"])))
    assert told["retold_mean_jct_s"] == pytest.approx(numbers["tempo_mean_jct_s"], rel=1e-3)
    outcome = Outcome("fidelity", "smoke", tmp_path, [Row({}, 0, numbers)], 1.0)
    module = SimpleNamespace(SCALES={"smoke": None}, cases=lambda scale: [case])
    monkeypatch.setattr(fault_injection, "load", lambda name: module)
    found = {row["what"]: row["mean_jct_s"]["worst"] for row in fault_injection.inject_faults(outcome)}
    assert len(found) == len(fault_injection.FAULTS)
    assert found["nothing wrong"] == pytest.approx(
        abs(numbers["tempo_mean_jct_s"] / numbers["live_mean_jct_s"] - 1), abs=1e-3
    )
    assert found["a slot less"] != found["nothing wrong"]
    assert "a slot less" in fault_injection.shown(fault_injection.inject_faults(outcome))
    assert numbers["load_now"] == pytest.approx(0.9)  # the anchor was found by this very profile
    assert set(second) == {f"again_{measure}" for measure in live.MEASURES} and second["again_mean_jct_s"] > 0
