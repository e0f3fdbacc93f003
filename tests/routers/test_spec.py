"""RouterSpec and the table: which router, with which arguments; what is wrong with one is said in one wording."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from fastserve.routers import ROUTERS, Replica, ReplicaView, RouterError, RouterFacts, chosen, find, make
from fastserve.routers.round_robin import RoundRobin
from fastserve.routers.router import Router
from fastserve.routers.spec import RouterSpec
from fastserve.sched.job import Job

MINE = """
from fastserve import Router

class Mine(Router):
    def __init__(self, most=3):
        if most > 9:
            raise KeyError("heavy")
        self.most = most

    def route(self, job, views):
        return min(range(len(views)), key=lambda index: views[index].waiting)

class Bare(Router):
    pass

class Greedy(Mine):
    needs = frozenset({"weather"})

def numbered():
    return 7
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "routers_of_mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_names_with_dashes_or_underscores() -> None:
    assert find("round_robin") is find("round-robin") is RoundRobin
    assert find("least_connections") is ROUTERS["least-connections"]
    assert find("fastserve.routers.round_robin:RoundRobin") is RoundRobin


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no router 'round'; there are round-robin, random, .*, or give your own as"):
        find("round")


def test_one_of_a_file(file: Path) -> None:
    spec = RouterSpec(f"{file}:Mine").with_argument("most=5")
    spec.check()
    assert spec.settings == {"most": 5}
    assert spec.needs == frozenset()
    made = spec.fresh()
    assert made.most == 5  # type: ignore[attr-defined]
    assert spec.fresh() is not made
    assert pickle.loads(pickle.dumps(RouterSpec(type(made)))).name == f"{file}:Mine"


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("Bare", {}, "must define route"),
        ("Greedy", {}, "needs weather, which nobody provides; there is guess, prefixes"),
        ("Mine", {"most": 10}, "cannot be imported and made: KeyError: 'heavy'"),
        ("Mine", {"least": 1}, "has no setting 'least'; it has most"),
        ("Yours", {}, "Yours does not exist; "),
    ],
)
def test_what_is_wrong_is_said_before_a_run(file: Path, name: str, knobs: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        RouterSpec(f"{file}:{name}", knobs).check()


def test_what_is_no_router() -> None:
    with pytest.raises(ValueError, match="give the class RoundRobin and not an object of it"):
        RouterSpec.of(RoundRobin())
    with pytest.raises(ValueError, match="3 is no router: give a name"):
        RouterSpec.of(3)
    with pytest.raises(ValueError, match="has made 7, which is no"):
        RouterSpec.of(lambda: 7).fresh()


def test_specs_of_classes_and_functions() -> None:
    assert RouterSpec.of(RoundRobin).name == "RoundRobin"
    assert RouterSpec.of("prefix").needs == {"guess", "prefixes"}
    assert RouterSpec.of(lambda: make("prefix")).needs == {"guess", "prefixes"}
    spec = RouterSpec.of("power-of-two", {"load": "jobs"})
    assert RouterSpec.of(spec, {"choices": 3}).settings == {"load": "jobs", "choices": 3}
    assert RouterSpec.of(spec) is spec


class Says(Router):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def route(self, job: Job, views: object) -> int:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize("answer", [2, -1, None, "0", True, 0.0])
def test_no_index_is_an_error_that_names_the_router(answer: object) -> None:
    with pytest.raises(RouterError, match=r"router Says, route\(\) of job 4: must return an index from 0 to 1, not "):
        chosen(Says(answer), Job(4, 0, 1), [ReplicaView(0, "a"), ReplicaView(3, "b")])


def test_what_a_router_raises_is_an_error_that_names_it() -> None:
    with pytest.raises(RouterError, match=r"router Says, route\(\) of job 4: ZeroDivisionError: oh") as error:
        chosen(Says(ZeroDivisionError("oh")), Job(4, 0, 1), [ReplicaView(0, "a")])
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert error.value.method == "route"


def test_one_that_defines_no_route() -> None:
    with pytest.raises(RouterError, match="Router must define route"):
        chosen(Router(), Job(4, 0, 1), [ReplicaView(0, "a")])


def test_used_tokens() -> None:
    assert ReplicaView(0, "a", pool_tokens=100, free_tokens=30, cached_tokens=20).used_tokens == 50
    assert ReplicaView(0, "a", free_tokens=30).used_tokens is None
    assert RouterFacts((Replica("a"),)).replicas[0].weight == 1.0
