"""The .py files are the notebooks; the .ipynb files say the same, without outputs."""

import ast
import json
from pathlib import Path

import pytest

from experiments._lib.committed_rows import committed
from experiments._lib.sweep import names
from fastserve.workload.synthesis import synthesise
from notebooks.__main__ import FOLDER, NAMES, paired, reads, source
from sim.replay import replay

MEASURES = set(replay(synthesise(20, rate=1.0), "fcfs", processes=1).runs[0].summary)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_clone_has_what_a_notebook_reads(name: str) -> None:
    """The rows of its experiments are committed, and in them every measure that it names."""
    texts = {node.value for node in ast.walk(ast.parse(source(name).read_text(encoding="utf-8")))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    for experiment in reads(name):
        found = committed(experiment, "small")
        assert found is not None, f"run: python -m experiments.check --scale small --only {experiment} --accept"
        assert texts & MEASURES <= {measure for row in found.outcome.rows for measure in row.numbers}


def test_a_changed_cell_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.__main__.FOLDER", tmp_path)
    (tmp_path / "story.py").write_text("# %%\nx = 1\n")
    before = paired("story")
    assert paired("story") == before
    (tmp_path / "story.py").write_text("# %%\nx = 2\n")
    assert paired("story") != before
