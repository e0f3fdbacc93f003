"""The rows that are committed with a reference are those that it was made of; a run of one's own goes before them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from experiments._lib import committed_rows, sweep
from experiments._lib import reference as references
from experiments._lib.case import Row
from experiments._lib.committed_rows import available, committed, rounded, store
from experiments._lib.reference import accept, condensed, reference
from experiments._lib.sweep import IncompleteError, Outcome

SMALL = sweep.RESULTS / "reference" / "small"
ROUNDING = 1.1e-5  # relative: a reference has six digits
STORED = sorted(path.name.partition(".")[0] for path in SMALL.glob("*.rows.json.gz"))


@pytest.fixture
def here(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References in the folder of the tiny experiment's results."""
    for module in (references, committed_rows):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "reference"


def test_rows_come_back_as_they_were(here: Path) -> None:
    here.parent.mkdir()
    (here.parent / "run.json").write_text(json.dumps({"provenance": {"commit": "abc", "dirty": False}}))
    first = {"mean_jct_s": 1 / 3, "p50_jct_s": 2.0, "live": [1, 2], "collapsed": False, "recovered_s": None}
    rows = [Row({"b": 1, "a": 0.5}, 0, first), Row({"a": 1}, 1, {"mean_jct_s": 2.0})]
    outcome = Outcome("tiny", "small", here.parent, rows, 3.4)
    path = store(outcome, here / "small")
    assert store(outcome, here / "small").read_bytes() == path.read_bytes()
    found = committed("tiny", "small")
    assert found is not None and not found.made_here and found.provenance["commit"] == "abc"
    assert [list(row.at.items()) for row in found.outcome.rows] == [[("b", 1), ("a", 0.5)], [("a", 1)]]
    kept = {name: value for name, value in first.items() if name != "p50_jct_s"} | {"mean_jct_s": 0.33333333}
    assert [row.numbers for row in found.outcome.rows] == [kept, {"mean_jct_s": 2.0}]
    assert committed("tiny", "paper") is None


def test_a_run_of_the_present_source_goes_first(here: Path, tiny: ModuleType) -> None:
    with pytest.raises(IncompleteError):
        available("tiny", "small")
    outcome = sweep.sweep("tiny", "small", jobs=1)
    accept(outcome)
    found = available("tiny", "small")
    assert found.made_here and found.outcome.rows == outcome.rows
    (outcome.folder / "summary.json").unlink()
    found = available("tiny", "small")
    assert (
        not found.made_here and found.provenance == json.loads((outcome.folder / "run.json").read_text())["provenance"]
    )
    assert [row.numbers["mean_jct_s"] for row in found.outcome.rows] == [
        rounded(row.numbers["mean_jct_s"], committed_rows.DIGITS) for row in outcome.rows
    ]


def test_no_rows_are_stored_of_smoke_and_live_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = sweep.sweep("tiny", "smoke", jobs=1)
    accept(outcome)
    monkeypatch.setattr(references, "LIVE", ("tiny",))
    accept(replace(outcome, scale="small"))
    assert not list(here.rglob("*.rows.json.gz"))


@pytest.mark.parametrize("experiment", STORED)
def test_a_reference_was_made_of_its_rows(experiment: str) -> None:
    """Its means, its statuses and its claims follow from them."""
    found, known = committed(experiment, "small"), reference(experiment, "small")
    assert found is not None and known is not None
    ours = json.loads(json.dumps(condensed(found.outcome)))
    assert [one | {"ours": 0} for one in ours["claims"]] == [one | {"ours": 0} for one in known["claims"]]
    assert [(one["at"], one["seeds"], one["status"]) for one in ours["points"]] == [
        (one["at"], one["seeds"], one["status"]) for one in known["points"]
    ]
    for mine, theirs in zip(ours["points"], known["points"], strict=True):
        for name, value in theirs["means"].items():
            assert alike(mine["means"][name], value), f"{theirs['at']}: {name}"
    for mine, theirs in zip(ours["claims"], known["claims"], strict=True):
        for one, other in zip(mine["ours"] or (), theirs["ours"] or (), strict=True):
            assert alike(one, other), theirs["text"]


def alike(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isclose(one, other, rel_tol=ROUNDING))
