"""The compiled brain is used while its text is the checkout's, and never otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from sim import compiled

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A checkout with two files, and what was built of it."""
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "b.py").write_text("b = 1\n")
    folder = tmp_path / "build"
    (folder / "inner").mkdir(parents=True)
    (folder / f"a{EXTENSION_SUFFIXES[0]}").touch()
    (folder / "inner" / f"b{EXTENSION_SUFFIXES[0]}").touch()
    compiled.stamp(folder, compiled.digest(tmp_path, ["a.py", "b.py"]), ["a.py", "b.py"])
    return folder / "built.json"


def test_extensions_of_the_same_text_are_found_by_module_name(built: Path) -> None:
    files = compiled.fresh(built, built.parent.parent)
    assert set(files) == {"a", "inner.b"} and all(file.exists() for file in files.values())
    spec = compiled.Finder(files).find_spec("inner.b")
    assert spec is not None and spec.origin == str(files["inner.b"])
    assert compiled.Finder(files).find_spec("inner.c") is None


@pytest.mark.parametrize("harm", ["text", "missing text", "extension", "stamp", "no stamp"])
def test_nothing_older_than_the_text_is_found(built: Path, harm: str) -> None:
    root = built.parent.parent
    if harm == "text":
        (root / "b.py").write_text("b = 2\n")
    elif harm == "missing text":
        (root / "b.py").unlink()
    elif harm == "extension":
        (built.parent / f"a{EXTENSION_SUFFIXES[0]}").unlink()
    elif harm == "stamp":
        built.write_text("{")
    else:
        built.unlink()
    assert compiled.fresh(built, root) == {}


def test_once_the_brain_is_loaded_it_stays_as_it_is(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(compiled, "fresh", lambda: {"fastserve.sched.job": built})
    assert not compiled.use()
    assert not any(isinstance(finder, compiled.Finder) for finder in sys.meta_path)


def test_switched_off_the_brain_is_interpreted_and_results_say_so() -> None:
    code = "import sim; from sim.report.provenance import provenance; print(provenance()['brain'])"
    env = os.environ | {compiled.SWITCH: "off"}
    answer = subprocess.check_output([sys.executable, "-c", code], cwd=CHECKOUT, env=env, text=True)
    assert answer == "interpreted\n"
