"""PolicySpec: which policy, with which arguments, under which label; what is wrong with one is said in one wording."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import sim
from fastserve.importing import load
from fastserve.policies import POLICIES
from fastserve.policies.fcfs import Fcfs
from fastserve.policies.spec import PolicySpec, check_labels, told_apart
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from tests.policies.desk import Times
from tests.sched.worlds import scheduler_of

MINE = """
from aside_of_test_spec import WEIGHT
from fastserve.sched.policy import Policy

class Mine(Policy):
    def __init__(self, weight=WEIGHT):
        self.weight = weight

    def rank(self, job):
        return job.prompt * self.weight
"""


class Slow(Policy):
    def __init__(self, weight: int = 2) -> None:
        if weight > 9:
            raise KeyError("heavy")
        self.weight = weight

    def rank(self, job: Job) -> int:
        return job.arrival


class Bare(Policy):
    pass


class Greedy(Slow):
    needs = frozenset({"weather"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy in a file elsewhere, beside a module that it imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "aside_of_test_spec", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "aside_of_test_spec.py").write_text("WEIGHT = 3\n", encoding="utf-8")
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    return folder / "mine.py"


def test_a_fresh_one_for_each_run() -> None:
    spec = PolicySpec("las", {"quantum": 0.5})
    assert spec.fresh() is not spec.fresh()
    assert type(PolicySpec(Slow, {"weight": 4}).fresh()) is Slow
    assert PolicySpec(Slow, {"weight": 4}).fresh().weight == 4  # type: ignore[attr-defined]
    assert isinstance(PolicySpec(lambda: Fcfs()).fresh(), Fcfs)


def test_names() -> None:
    assert (PolicySpec("las").name, PolicySpec("las").path, PolicySpec("las", label="x").title) == ("las", "las", "x")
    spec = PolicySpec(Slow)
    assert (spec.name, spec.title, spec.path) == ("Slow", "Slow", f"{__name__}:Slow")
    assert [PolicySpec(name).path for name in POLICIES] == list(POLICIES)


def test_of_takes_what_users_have() -> None:
    spec = PolicySpec("las", {"quantum": 1.0}, "mine")
    assert PolicySpec.of(spec) is spec
    assert PolicySpec.of(spec, {"quantum": 2.0}) == PolicySpec("las", {"quantum": 2.0}, "mine")
    assert PolicySpec.of("las") == PolicySpec("las")
    assert PolicySpec.of(Slow, {"weight": 1}) == PolicySpec(Slow, {"weight": 1})


def test_arguments_as_text() -> None:
    assert PolicySpec("mlfq").with_argument("q1=0.5").with_argument("levels=3").knobs == {"q1": 0.5, "levels": 3}
    with pytest.raises(ValueError, match="write it as KEY=VALUE, not 'q1'"):
        PolicySpec("mlfq").with_argument("q1")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Slow(), "give the class Slow and not an object of it"),
        (3, "3 is no policy"),
        (int, "is no policy: give a name"),
    ],
)
def test_what_is_no_policy(policy: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PolicySpec.of(policy)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (PolicySpec("nope"), "no policy 'nope'; there are fcfs"),
        (PolicySpec("las", {"q": 1}), "policy las has no setting 'q'; it has quantum"),
        (PolicySpec(Slow, {"q": 1}), "policy Slow has no setting 'q'; it has weight"),
        (PolicySpec("las", {"quantum": "long"}), "policy las: "),
        (PolicySpec(Slow, {"weight": "much"}), "policy Slow: "),
        (PolicySpec(Slow, {"weight": 10}), "policy Slow cannot be imported and made: KeyError: 'heavy'"),
        (PolicySpec(Bare), r"policy Bare must define rank\(self, job\): any comparable value"),
        (PolicySpec(Greedy), "policy Greedy needs weather, which no driver provides"),
        (PolicySpec("srpt"), "srpt needs a guess of each output's length: choose a predictor, --predictor a or b"),
    ],
)
def test_what_is_wrong_is_known_before_a_run(spec: PolicySpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spec.check(guesses="a or b")


def test_a_function_that_makes_no_policy_is_told() -> None:
    def made() -> object:
        return 3

    with pytest.raises(ValueError, match=r"policy made has made 3, which is no fastserve\.Policy"):
        PolicySpec.of(made).fresh()


def test_what_is_right_passes() -> None:
    for name in POLICIES:
        PolicySpec(name).check()
    PolicySpec(Slow).check(guesses="a or b")
    assert PolicySpec("srpt").needs_guess and not PolicySpec("las").needs_guess


# -- a file ------------------------------------------------------------------------------------------------------------


def test_a_path_is_as_good_as_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PolicySpec(f"{file}:Mine", {"weight": 5})
    monkeypatch.chdir(file.parent.parent)
    near = PolicySpec("./elsewhere/mine.py:Mine")
    assert whole.kind is near.kind, "one file is one module"
    assert near.settings == {"weight": 3} and whole.fresh().weight == 5  # type: ignore[attr-defined]
    assert near.path == f"{file}:Mine" == PolicySpec(near.kind).path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere.py:Mine", "there is no file .*nowhere.py"),
        ("elsewhere/mine:Mine", "there is no file .*mine"),
        ("elsewhere/mine.py", r"a file too takes its class: \./mine\.py:Mine"),
        ("elsewhere/mine.py:Yours", r"Yours does not exist; elsewhere/mine\.py has .*Mine"),
    ],
)
def test_a_wrong_path(file: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    with pytest.raises(ValueError, match=words):
        _ = PolicySpec(name).kind


def test_a_file_that_breaks_is_read_again(file: Path) -> None:
    file.write_text("1 +", encoding="utf-8")
    spec = PolicySpec(f"{file}:Mine")
    with pytest.raises(ValueError, match=r"mine\.py:Mine cannot be imported and made: SyntaxError"):
        spec.check()
    file.write_text(MINE, encoding="utf-8")
    spec.check()


def test_its_class_travels_to_another_process(file: Path) -> None:
    kind = PolicySpec(f"{file}:Mine").kind
    sent = pickle.dumps(PolicySpec(kind, {"weight": 7}, "mine"))  # type: ignore[arg-type]
    code = "import pickle, sys; s = pickle.loads(sys.stdin.buffer.read()); print(s.fresh().weight, s.label, s.name)"
    found = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True, cwd=os.getcwd())
    assert found.stdout.decode().split()[:2] == ["7", "mine"]
    assert pickle.loads(pickle.dumps(PolicySpec(Slow))) == PolicySpec(Slow)


def test_two_files_of_one_name_are_two_policies(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.py"
    other.write_text(MINE.replace("WEIGHT):", "8):"), encoding="utf-8")
    assert PolicySpec(f"{file}:Mine").settings == {"weight": 3}
    assert PolicySpec(f"{other}:Mine").settings == {"weight": 8}
    assert load("x", other) is load("x", other)


def test_a_replay_in_a_pool_under_a_file(file: Path) -> None:
    trace = str(Path(__file__).parents[2] / "traces" / "azure-conv-like.jsonl")
    kind = PolicySpec(f"{file}:Mine").kind
    rows = [f"{file}:Mine", PolicySpec(kind, label="class"), "fcfs"]  # type: ignore[arg-type]
    result = sim.replay(trace, rows, num_requests=40, processes=2, load=0.9)
    assert [run.label for run in result.runs] == [f"{file}:Mine", "class", "fcfs"]
    means = [run.summary["mean_jct_s"] for run in result.runs]
    assert means[0] == means[1] and means[0] != means[2]


# -- labels ------------------------------------------------------------------------------------------------------------


def test_rows_of_one_policy_are_told_apart_by_their_arguments() -> None:
    rows = [
        PolicySpec("mlfq"),
        PolicySpec("mlfq", {"levels": 3, "q1": 0.5}),
        PolicySpec("mlfq", {"levels": 6, "q1": 0.5}),
        PolicySpec("mlfq", {"levels": 9}, "nine"),
        PolicySpec("las", {"quantum": 0.5}),
        PolicySpec("las", {"quantum": 0.5}, "again"),
    ]
    titles = [row.title for row in told_apart(rows)]
    assert titles == ["mlfq", "mlfq levels=3 q1=0.5", "mlfq levels=6 q1=0.5", "nine", "las", "again"]
    two = told_apart(rows[1:3])
    assert [row.title for row in two] == ["mlfq levels=3", "mlfq levels=6"]
    check_labels([row.title for row in two])


def test_rows_that_do_not_differ_need_labels() -> None:
    same = told_apart([PolicySpec("las", {"quantum": 1}), PolicySpec("las", {"quantum": 1})])
    with pytest.raises(ValueError, match="two rows have the label 'las': give them labels"):
        check_labels([row.title for row in same])


def test_a_replay_labels_them() -> None:
    trace = str(Path(__file__).parents[2] / "traces" / "azure-conv-like.jsonl")
    rows = [PolicySpec("las", {"quantum": 0.5}), PolicySpec("las", {"quantum": 2.0}), Slow]
    result = sim.replay(trace, rows, num_requests=20, load=0.5)
    assert [run.label for run in result.runs] == ["las quantum=0.5", "las quantum=2.0", "Slow"]
    assert [run.policy for run in result.runs] == ["las", "las", "Slow"]


def test_the_old_name() -> None:
    assert sim.Contender is PolicySpec is sim.PolicySpec


# -- every setting -----------------------------------------------------------------------------------------------------


class Shaped(Slow):
    """A policy with presets and a derived value of its own."""

    presets = {"heavy": {"weight": 7, "depth": 4}}  # noqa: RUF012

    def __init__(self, preset: str = "", depth: int = 1, **knobs: int) -> None:
        super().__init__(**knobs)
        self.depth = depth

    def derived_settings(self) -> dict[str, object]:
        return {"levels": self.depth * self.machine.slots}


class Odd(Slow):
    derived_settings = None  # type: ignore[assignment]  # somebody's own attribute of that name


class Broken(Slow):
    def derived_settings(self) -> dict[str, object]:
        raise KeyError("slots")


def bound(spec: PolicySpec) -> Policy:
    policy = spec.fresh()
    scheduler_of(policy, Times(3), max_batch=3)
    return policy


def test_settings_in_effect() -> None:
    assert PolicySpec("fcfs").in_effect == {}
    assert PolicySpec("las").in_effect == {"quantum": 0.0}
    mine = PolicySpec("sj-mlfq", {"alpha": 1.5}).in_effect
    assert mine["preset"] == "paper" and mine["alpha"] == 1.5 and mine["q1"] == 0.0 and mine["levels"] == 0
    theirs = PolicySpec("sj-mlfq", {"preset": "artifact", "alpha": 1.5}).in_effect
    assert theirs["q1"] == 0.01 and theirs["alpha"] == 1.5 and theirs["levels"] == "unbounded" and theirs["ratio"] == 2
    assert PolicySpec(Slow).in_effect == {"weight": 2}
    assert PolicySpec(Shaped).in_effect == {"preset": "", "depth": 1, "weight": 2}
    assert PolicySpec(Shaped, {"preset": "heavy", "depth": 2}).in_effect == {"preset": "heavy", "depth": 2, "weight": 7}
    assert PolicySpec(partial(Slow, weight=5)).in_effect == {"weight": 5}
    assert PolicySpec(lambda: Slow(4)).in_effect == {}


def test_what_a_policy_derives_is_told_with_its_settings() -> None:
    for spec, derived in (
        (PolicySpec("las"), {"quantum": 0.01}),
        (PolicySpec("mlfq", {"levels": 2}), {"levels": 2, "quanta": [0.01, 0.02]}),
        (PolicySpec(Shaped, {"depth": 2}), {"levels": 6}),
    ):
        assert spec.told(bound(spec)) == spec.in_effect | {"derived": derived}
    assert PolicySpec(Slow).told(bound(PolicySpec(Slow))) == {"weight": 2}
    assert PolicySpec(Odd).told(bound(PolicySpec(Odd))) == {"weight": 2}
    with pytest.raises(PolicyError, match=r"policy Broken, derived_settings\(\) at .*KeyError: 'slots'"):
        PolicySpec(Broken).told(bound(PolicySpec(Broken)))


def test_a_default_that_a_dataclass_makes_is_shown_as_it_is_made() -> None:
    @dataclass
    class Mine(Policy):
        alpha: float = 0.5
        weights: list[int] = field(default_factory=lambda: [1, 2])

    assert PolicySpec(Mine).in_effect == {"alpha": 0.5, "weights": [1, 2]}
    assert PolicySpec(Mine, {"weights": [3]}).in_effect == {"alpha": 0.5, "weights": [3]}


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("mlfq", {"q1": "nan"}, "q1='nan' must be a finite number of seconds, and not negative"),
        ("mlfq", {"alpha": float("inf")}, "alpha=inf must be a finite number of seconds"),
        ("sj-mlfq", {"ratio": float("inf")}, "ratio=inf must be a finite number, and at least 1"),
        ("mlfq", {"ratio": "two"}, "ratio='two' must be a finite number, and at least 1"),
        ("mlfq", {"check": 1.5}, "check=1.5 must be a whole number"),
        ("las", {"quantum": "x"}, "quantum='x' must be a finite number of seconds"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(name: str, knobs: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"policy {name}: {words}"):
        PolicySpec(name, knobs).fresh()
