"""The .py files are the notebooks; the .ipynb files say the same, without outputs."""

import json
from pathlib import Path

import pytest

from experiments._lib.sweep import names
from notebooks.__main__ import FOLDER, NAMES, paired, reads

STORIES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def test_every_notebook_is_listed() -> None:
    assert sorted(NAMES) == STORIES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == STORIES


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_is_in_step(name: str) -> None:
    copy = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert copy == paired(name), "run: python -m notebooks --pair"


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_stored(name: str) -> None:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_reads_experiments_that_exist(name: str) -> None:
    found = reads(name)
    assert set(found) <= set(names())
    assert bool(found) == (name not in ("your_own_trace", "simulated_against_live"))


def test_a_changed_cell_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.__main__.FOLDER", tmp_path)
    (tmp_path / "story.py").write_text("# %%\nx = 1\n")
    before = paired("story")
    assert paired("story") == before
    (tmp_path / "story.py").write_text("# %%\nx = 2\n")
    assert paired("story") != before
