"""Execution in a real kernel: a page each, failing cells are told, missing runs said before any start."""

from pathlib import Path

import pytest

from notebooks import __main__ as runner
from notebooks.__main__ import main


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks instead of ours: fine, broken and hungry."""
    (tmp_path / "fine.py").write_text(
        "# %% [markdown]\n# # A story\n\n# %%\nimport os\n\nprint('scale', os.environ['FASTSERVE_SCALE'])\n"
    )
    (tmp_path / "broken.py").write_text("# %%\nnobody\n")
    (tmp_path / "hungry.py").write_text("# %%\nruns = Runs('jct_vs_rate')\n")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(runner, "FIGURES", tmp_path / "build")
    monkeypatch.setattr(runner, "NAMES", ("fine", "broken", "hungry"))
    return tmp_path


def test_pages_and_failures(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fine", "broken", "--scale", "smoke", "--jobs", "2"]) == 1
    page = (stories / "build" / "fine.html").read_text(encoding="utf-8")
    assert "A story" in page
    assert "scale smoke" in page
    assert not (stories / "build" / "broken.html").exists()
    said = capsys.readouterr()
    assert "fine: 2 cells" in said.out
    assert "broken failed" in said.err
    assert "nobody" in said.err


def test_missing_runs_are_said_first(
    stories: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sweep", "committed_rows"):
        monkeypatch.setattr(f"experiments._lib.{module}.RESULTS", stories / "results")
    assert main(["hungry", "--scale", "small"]) == 1
    assert "python -m experiments.jct_vs_rate --scale small" in capsys.readouterr().err
    assert not (stories / "build").exists()


def test_pairs_are_written_once(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fine", "--pair"]) == 0
    assert (stories / "fine.ipynb").exists()
    assert "wrote" in capsys.readouterr().out
    assert main(["fine", "--pair"]) == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_name_is_refused(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "there is no notebook nothing" in capsys.readouterr().err
