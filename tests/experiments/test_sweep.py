"""Sweeps: nothing is computed twice, nothing finished is lost, and what is stale says so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest

from experiments._lib import sweep as sweeping
from experiments._lib.case import simulate
from experiments._lib.sweep import IncompleteError, add_options, finished, main, sweep


def test_a_second_run_computes_nothing(tiny: ModuleType) -> None:
    first = sweep("tiny", "smoke", jobs=1)
    assert len(tiny.calls) == 4
    second = sweep("tiny", "smoke", jobs=1)
    assert len(tiny.calls) == 4
    assert second.rows == first.rows
    assert second.folder == first.folder


def test_what_is_left_is_planned_before_it_is_run(
    tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny, "plan", lambda cases: f"{len(cases)} are left", raising=False)
    sweep("tiny", "smoke", jobs=1)
    assert "tiny: 4 are left" in capsys.readouterr().err
    sweep("tiny", "smoke", jobs=1)
    assert "are left" not in capsys.readouterr().err


def test_rows_are_what_the_experiment_makes_of_its_cases(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "joined", lambda rows: rows[::2], raising=False)
    first = sweep("tiny", "smoke", jobs=1)
    assert [row.at["policy"] for row in first.rows] == ["fcfs", "fcfs"]
    assert finished("tiny", "smoke").rows == first.rows
    assert len(json.loads((first.folder / "summary.json").read_text())["rows"]) == 4


def test_rows_are_the_runs(tiny: ModuleType) -> None:
    outcome = sweep("tiny", "smoke", jobs=1)
    case = tiny.cases(tiny.SCALES["smoke"])[1]
    row = outcome.rows[1]
    assert row.at == case.at
    assert row.numbers["mean_jct_s"] == simulate(case)["mean_jct_s"]
    assert row.numbers["load"] == pytest.approx(0.9)


def test_processes_give_the_same_rows(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    here = sweep("tiny", "smoke", jobs=1).rows
    monkeypatch.setattr(sweeping, "RESULTS", sweeping.RESULTS.parent / "others")
    assert sweep("tiny", "smoke", jobs=2).rows == here


def test_an_interrupted_run_goes_on_where_it_stopped(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny.run

    def stops(case: object) -> object:
        if len(tiny.calls) == 2:
            raise KeyboardInterrupt
        return real(case)

    monkeypatch.setattr(tiny, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep("tiny", "smoke", jobs=1)
    with pytest.raises(IncompleteError, match="missing"):
        finished("tiny", "smoke")
    monkeypatch.setattr(tiny, "run", real)
    sweep("tiny", "smoke", jobs=1)
    assert len(tiny.calls) == 4
    assert len(set(tiny.calls)) == 4


def test_each_scale_has_its_own_run(tiny: ModuleType) -> None:
    smoke, small = sweep("tiny", "smoke", jobs=1), sweep("tiny", "small", jobs=1)
    assert smoke.folder != small.folder
    assert len(small.rows) == 6


def test_editing_a_plot_reruns_nothing_but_draws_again(tiny: ModuleType) -> None:
    before = sweep("tiny", "smoke", jobs=1)
    path = Path(str(tiny.__file__))
    path.write_text(path.read_text().replace('b"drawn"', 'b"drawn anew"').replace("Claim: none", "Claim: still none"))
    tiny.plot = lambda rows, folder: Path(folder, "tiny.pdf").write_bytes(b"drawn anew")
    after = sweep("tiny", "smoke", jobs=1)
    assert after.folder == before.folder
    assert len(tiny.calls) == 4
    assert (after.folder / "tiny.pdf").read_bytes() == b"drawn anew"


def test_editing_what_computes_makes_the_run_stale(tiny: ModuleType) -> None:
    sweep("tiny", "smoke", jobs=1)
    path = Path(str(tiny.__file__))
    path.write_text(path.read_text().replace("return simulate(case)", "return simulate(case) | {}"))
    with pytest.raises(IncompleteError, match=r"stale.*--scale smoke"):
        finished("tiny", "smoke")


def test_a_half_written_case_is_not_taken_for_a_result(tiny: ModuleType) -> None:
    outcome = sweep("tiny", "smoke", jobs=1)
    (outcome.folder / "summary.json").unlink()
    case = next((outcome.folder / "cases").iterdir())
    (case.parent / f".{case.name}.123").write_text("{")
    case.unlink()
    assert sweep("tiny", "smoke", jobs=1).rows == outcome.rows
    assert len(tiny.calls) == 5


def test_run_json_names_the_scale_and_where_it_was_made(tiny: ModuleType) -> None:
    outcome = sweep("tiny", "smoke", jobs=1)
    about = json.loads((outcome.folder / "run.json").read_text())
    assert about["scale"] == "smoke"
    assert about["settings"] == {"seeds": 2}
    assert set(about["provenance"]) >= {"commit", "python", "machine"}


def test_the_command_line_prints_claims(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("tiny", ["--scale", "smoke", "--jobs", "1"]) == 0
    assert "mean JCT, fcfs over srpt: 1" in capsys.readouterr().out


def test_a_missing_backend_is_one_sentence(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import dask.distributed  # noqa: F401
    except ImportError:
        assert main("tiny", ["--scale", "smoke", "--pool", "dask"]) == 2
        assert "not installed" in capsys.readouterr().err
    else:
        pytest.skip("dask is installed")


def test_a_pool_under_its_old_name_is_taken_with_a_warning(
    tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny")
    add_options(parser)
    assert parser.parse_args(["--backend", "ray"]).pool == "ray"
    assert "tiny: warning: --backend ray is called --pool ray now" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("tiny", ["--scale", "smoke", "--backend", "torch"])
    assert "--backend torch: a pool of processes is --pool local|ray|dask now" in capsys.readouterr().err
