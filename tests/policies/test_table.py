"""find, knobs and make: policies by name or import path, their settings, and what the errors say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastserve.policies import POLICIES, find, knobs, make
from fastserve.policies.fcfs import Fcfs
from fastserve.policies.mlfq import Mlfq
from fastserve.policies.skip_join import SkipJoinMlfq

MINE = """
from fastserve.sched.policy import Policy

class Mine(Policy):
    def __init__(self, weight=3, *, slack=0.5):
        self.weight = weight

    def rank(self, job):
        return job.prompt * self.weight

class Bare(Policy):
    def rank(self, job):
        return 0

number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of policies."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_policies_here.py").write_text(MINE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "my_policies_here", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", POLICIES)
def test_every_name_makes_a_fresh_policy(name: str) -> None:
    assert find(name) is POLICIES[name]
    assert make(name) is not make(name)
    assert type(make(name)) is POLICIES[name]
    assert make(name, knobs(POLICIES[name])), "the defaults that are shown can be given"


def test_the_table_has_the_policies_of_the_papers() -> None:
    assert {"fcfs", "fixed-priority", "mlfq", "sj-mlfq", "sjf", "srpt", "las"} <= set(POLICIES)


def test_by_import_path(folder: Path) -> None:
    policy = find("my_policies_here:Mine")
    assert knobs(policy) == {"weight": 3, "slack": 0.5}
    assert make("my_policies_here:Mine", {"weight": 4}).weight == 4  # type: ignore[attr-defined]
    assert knobs(find("my_policies_here:Bare")) == {}
    assert find("fastserve.policies.fcfs:Fcfs") is Fcfs


def test_knobs_include_those_of_the_base() -> None:
    ours = knobs(SkipJoinMlfq)
    assert ours["preset"] == "paper"
    assert {key: value for key, value in ours.items() if key != "preset"} == knobs(Mlfq)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fifo", "no policy 'fifo'; there are fcfs, .*sj-mlfq.*module:Class"),
        ("no_such_module:Mine", "no module 'no_such_module' in .* or on the Python path"),
        ("my_policies_here:Nobody", "Nobody does not exist; my_policies_here has .*Mine, Bare"),
        ("my_policies_here:number", "number is no subclass of fastserve.Policy"),
        ("pathlib:Path", "Path is no subclass of fastserve.Policy; pathlib has no policy"),
    ],
)
def test_a_wrong_name(folder: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(name)


def test_an_import_error_inside_the_module_is_not_hidden(folder: Path) -> None:
    (folder / "my_broken_policies.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        find("my_broken_policies:Mine")


def test_a_wrong_setting_lists_the_valid_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match="policy las has no setting 'quantums'; it has quantum"):
        make("las", {"quantums": 1})
    with pytest.raises(ValueError, match=r"policy sj-mlfq has no setting 'gamma'; it has preset, q1, .*eviction"):
        make("sj-mlfq", {"gamma": 1})
    with pytest.raises(ValueError, match="policy fcfs has no setting 'x'; it has none"):
        make("fcfs", {"x": 1})


def test_a_value_of_the_wrong_type_names_the_policy() -> None:
    with pytest.raises(ValueError, match="policy las: "):
        make("las", {"quantum": "long"})
