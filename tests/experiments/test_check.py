"""The checker finds what moved, and nothing else; the page is written from the reference."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from experiments import check, table
from experiments._lib import front_page
from experiments._lib import reference as references
from experiments._lib.reference import accept, condensed, reference
from experiments._lib.sweep import names, sweep


@pytest.fixture
def accepted(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(references, "RESULTS", tmp_path / "results")
    for module in (check, table):
        monkeypatch.setattr(module, "names", lambda: ["tiny"])
    accept(sweep("tiny", "smoke", jobs=1))
    return tiny


def test_a_run_is_as_its_own_reference(accepted: ModuleType) -> None:
    assert check.main(["--scale", "smoke"]) == 0


def test_a_missing_run_fails(accepted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--scale", "small"]) == 1
    assert "missing" in capsys.readouterr().out


def test_a_stale_run_fails(accepted: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(str(accepted.__file__))
    path.write_text(path.read_text().replace("requests=40", "requests=50"))
    exec(compile(path.read_text(), str(path), "exec"), accepted.__dict__)
    assert check.main(["--scale", "smoke"]) == 1
    assert "stale" in capsys.readouterr().out


def test_what_moved_is_named(accepted: ModuleType) -> None:
    ours = condensed(sweep("tiny", "smoke", jobs=1))
    theirs = reference("tiny", "smoke")
    assert theirs is not None
    assert check.differences("tiny", ours, theirs) == ([], 0)

    moved = copy.deepcopy(theirs)
    moved["points"][0]["means"]["mean_jct_s"] *= 1.03
    found, _ = check.differences("tiny", ours, moved)
    assert len(found) == 1
    assert "policy fcfs: mean_jct_s" in found[0]

    within = copy.deepcopy(theirs)
    within["points"][0]["means"]["mean_jct_s"] *= 1.01
    assert check.differences("tiny", ours, within)[0] == []

    other = copy.deepcopy(theirs)
    other["points"][1]["status"] = "collapsed"
    assert "collapsed" in check.differences("tiny", ours, other)[0][0]

    more = copy.deepcopy(theirs)
    more["points"].append({"at": {"policy": "las"}, "seeds": 2, "status": "ok", "means": {}})
    assert "not in the last run" in check.differences("tiny", ours, more)[0][0]

    fewer = copy.deepcopy(theirs)
    fewer["points"].pop()
    assert "not in the reference" in check.differences("tiny", ours, fewer)[0][0]


def test_points_without_their_trace_are_counted(accepted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = condensed(sweep("tiny", "smoke", jobs=1))
    theirs = copy.deepcopy(ours)
    theirs["points"].append({"at": {"policy": "las"}, "seeds": 2, "status": "ok", "means": {}})
    monkeypatch.setattr(accepted, "absent", lambda at: at["policy"] == "las", raising=False)
    assert check.differences("tiny", ours, theirs) == ([], 1)


@pytest.mark.parametrize(
    ("measure", "ours", "theirs", "same"),
    [
        ("mean_jct_s", 1.019, 1.0, True),
        ("mean_jct_s", 1.021, 1.0, False),
        ("p99_jct_s", 1.04, 1.0, True),
        ("max_slowdown", 1.06, 1.0, False),
        ("swap_share", 0.01, 0.0, True),
        ("collapsed", 0.2, 0.0, False),
        ("mean_jct_s", None, None, True),
        ("mean_jct_s", 1.0, None, False),
    ],
)
def test_tolerances(measure: str, ours: float | None, theirs: float | None, same: bool) -> None:
    assert check.near(measure, ours, theirs) is same


def test_the_page_has_every_claim(accepted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    monkeypatch.setattr(table, "described", lambda name: "Claim: none.")
    assert table.main(["--scale", "smoke"]) == 0
    assert "mean JCT, fcfs over srpt: 1" in (tmp_path / "README.md").read_text()


def test_live_runs_are_published_with_their_machine_and_held_against_nothing(
    accepted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (references, check, table):
        monkeypatch.setattr(module, "LIVE", ("tiny",))
    for module in (check, table):
        monkeypatch.setattr(module, "names", list)
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    monkeypatch.setattr(table, "described", lambda name: "Claim: none.")
    with pytest.raises(SystemExit):
        check.main(["--scale", "smoke", "--only", "tiny"])
    assert "--accept publishes it" in capsys.readouterr().err
    assert check.main(["--scale", "smoke", "--only", "tiny", "--accept"]) == 0
    monkeypatch.setattr(references, "SCALES", ("small", "smoke"))
    assert check.main(["--scale", "smoke", "--only", "tiny", "--accept"]) == 0
    monkeypatch.setattr(references, "reference", lambda *_: {"scale": "smoke"})
    with pytest.raises(ValueError, match="does not replace it"):
        accept(replace(sweep("tiny", "smoke", jobs=1), scale="small"))
    monkeypatch.setattr(references, "reference", reference)
    known = reference("tiny", "small")  # one place, whatever its scale
    assert known is not None and known["scale"] == "smoke" and known["provenance"]["machine"]["cores"]
    monkeypatch.setattr(front_page, "write", lambda told: None)
    assert table.main(["--scale", "small"]) == 0
    page = (tmp_path / "README.md").read_text()
    assert page.index("## Live, on one machine") < page.index("### tiny") < page.index("--scale smoke`:")
    assert f"{known['provenance']['machine']['cores']} cores, commit" in page


def test_all_experiments_are_found_and_keep_to_the_form() -> None:
    assert len(names()) == 17
    over_programs = {"agents", "agents_published", "cache_orders"}  # intervals over the programs of one trace
    assert over_programs < set(names())
    for name in names():
        text = table.described(name)
        assert text, f"{name} has no description"
        for scale in ("smoke", "small", "paper"):
            module = __import__(f"experiments.{name}", fromlist=["SCALES"])
            if name not in over_programs:
                assert module.SCALES[scale].seeds >= (2 if scale == "smoke" else 5)
