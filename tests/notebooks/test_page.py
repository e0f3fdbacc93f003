"""Which runs a notebook gets, and how numbers are shown."""

from pathlib import Path

import pytest

from experiments._lib.case import Row
from experiments._lib.committed_rows import Found
from experiments._lib.sweep import IncompleteError, Outcome
from fastserve.metrics.summary import Ratio
from notebooks import _page
from notebooks._page import Runs, interval


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(experiment, scale) of the runs that there are; a test adds to it."""
    there: set[tuple[str, str]] = set()

    def available(experiment: str, scale: str) -> Found:
        if (experiment, scale) not in there:
            raise IncompleteError(f"run: python -m experiments.{experiment} --scale {scale}")
        outcome = Outcome(experiment, scale, Path(), [Row({"policy": scale}, 0, {})], 0.0)
        about = {"commit": "0123456789", "dirty": False, "written_at": "2026-11-28T01:00:00+00:00"}
        return Found(outcome, about, made_here=experiment != "b")

    monkeypatch.setattr(_page, "available", available)
    monkeypatch.delenv("FASTSERVE_SCALE", raising=False)
    return there


def test_small_is_taken_where_all_is_there(complete: set[tuple[str, str]]) -> None:
    complete |= {(name, scale) for name in ("a", "b") for scale in ("smoke", "small")}
    runs = Runs("a", "b")
    assert runs.scale == "small"
    assert list(runs) == ["a", "b"]
    assert runs["b"][0].at == {"policy": "small"}


def test_the_page_says_which_rows_are_not_of_this_machine(complete: set[tuple[str, str]]) -> None:
    complete |= {("a", "small"), ("b", "small")}
    text = Runs("a", "b")._repr_markdown_()
    assert "* `a`: 1 runs, 1 seeds, commit 01234567\n" in text
    assert text.endswith("* `b`: 1 runs, 1 seeds, commit 01234567, committed rows of 2026-11-28")
    assert "Nothing was computed for what is called committed" in text
    assert "committed" not in Runs("a")._repr_markdown_()


def test_one_missing_run_makes_all_smoke(complete: set[tuple[str, str]]) -> None:
    complete |= {("a", "small"), ("a", "smoke"), ("b", "smoke")}
    runs = Runs("a", "b")
    assert runs.scale == "smoke"
    assert {runs[name][0].at["policy"] for name in runs} == {"smoke"}


def test_a_missing_run_says_what_to_do(complete: set[tuple[str, str]]) -> None:
    complete.add(("a", "smoke"))
    with pytest.raises(IncompleteError, match=r"python -m experiments\.b --scale smoke"):
        Runs("a", "b")


def test_the_environment_decides(complete: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    complete |= {("a", "small"), ("a", "smoke")}
    monkeypatch.setenv("FASTSERVE_SCALE", "smoke")
    assert Runs("a").scale == "smoke"
    assert Runs("a", scale="small").scale == "small"
    monkeypatch.setenv("FASTSERVE_SCALE", "paper")
    with pytest.raises(IncompleteError, match="paper"):
        Runs("a")
    with pytest.raises(ValueError, match="no scale 'huge'"):
        Runs("a", scale="huge")


def test_an_interval_reaches_from_the_mean() -> None:
    assert interval(Ratio(2.0, 1.5, 3.0)) == (0.5, 1.0)
    assert interval(Ratio(2.0, None, None)) == (0.0, 0.0)


def test_tables_and_figures_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(_page, "display", shown.append)
    monkeypatch.setattr(_page, "FIGURES", tmp_path)
    _page.table(["what", "ratio"], [["JCT", Ratio(2.0, 1.5, 3.0)], ["none", None], ["share", 0.12345]])
    lines = getattr(shown[0], "data", "").splitlines()
    assert lines == ["what | ratio", "--- | ---", "JCT | 2 [1.5, 3]", "none | none", "share | 0.123"]
    _page.show("tiny", (3.33, 2.0), lambda figure: figure.subplots().plot([0, 1], [0, 1]))
    assert (tmp_path / "tiny.pdf").read_bytes().startswith(b"%PDF")
    assert getattr(shown[1], "width", None) == 500
