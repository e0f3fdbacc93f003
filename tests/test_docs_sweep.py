"""docs/sweep.md: its command is one, its Python runs, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.sweep.command import parser

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")


def test_the_command_is_one() -> None:
    [typed] = re.findall(r"^    python -m sim sweep (.*?[^\\])$", PAGE, flags=re.MULTILINE | re.DOTALL)
    args = parser().parse_args(shlex.split(typed.replace("\\\n", " ")))
    assert args.load == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    assert [spec.name for spec in args.policies] == ["fcfs", "sj-mlfq", "mlfq", "las", "srpt"]
    assert (ROOT / args.trace).exists()


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two lines beside the import, with a figure and all that the table names."""
    monkeypatch.chdir(ROOT)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("num_requests=200", "num_requests=40"), names)
    found = names["found"]
    assert len(found.rows) == 3 * 3 * 4
    assert isinstance(found, sim.Sweep)
    for call in re.findall(r"^\| `(found\.\w+\(.*?\))`", PAGE, flags=re.MULTILINE):
        if "records" not in call:
            assert len(eval(call, names).columns) > 4, call
    for name in re.findall(r"`found\.axes`, (.*?) say", PAGE)[0].replace("`.", "").replace("`", "").split(", "):
        assert hasattr(found, name)


def test_what_it_says_of_bounds() -> None:
    from sim.sweep.values import MOST_RUNS, MOST_VALUES

    assert f"at most {MOST_VALUES:,} values and a sweep {MOST_RUNS:,} runs" in PAGE


def test_its_picture_is_there() -> None:
    for image in re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE):
        assert (ROOT / "docs" / image).stat().st_size < 300_000
