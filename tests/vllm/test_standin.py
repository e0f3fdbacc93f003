"""The stand-ins for vLLM's classes against the real ones: names, signatures, attributes, and the same schedule."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from fastserve.vllm.settings import installed
from tests.vllm import digest, serving, standin
from tests.vllm.api import Api
from tests.vllm.api import standin as standin_api
from tests.vllm.cases import Arrival, Case, draw
from tests.vllm.drive import Drive, serve

pytestmark = pytest.mark.vllm

OWN = {
    "held", "num_cached", "free", "cached", "cache", "find", "block_size", "_forget", "_unqueue", "_allocate",
    "_schedule_running", "_schedule_waiting",
}  # fmt: skip
"""Names of the stand-ins' own, which nothing outside of them uses."""

SEEN = {
    "Scheduler", "AsyncScheduler", "Request", "RequestStatus", "RequestQueue", "KVCacheManager", "BlockPool",
    "SchedulerOutput", "ModelRunnerOutput", "PauseState",
}  # fmt: skip


def pairs() -> Iterator[tuple[type[Any], type[Any]]]:
    """Each class of the stand-ins that has one of the same name in a module that it stands for, and that."""
    for name, own in standin.MODULES.items():
        mine = importlib.import_module(f"tests.vllm.standin.{own}")
        real = importlib.import_module(name)
        for member, kind in vars(mine).items():
            if inspect.isclass(kind) and kind.__module__ == mine.__name__ and hasattr(real, member):
                yield kind, getattr(real, member)


def test_signatures_and_values(api: Api) -> None:
    seen = set()
    for mine, real in pairs():
        seen.add(mine.__name__)
        if issubclass(mine, enum.Enum):
            assert {one.name: one.value for one in mine} == {one.name: one.value for one in real}, mine
        if is_dataclass(mine) and is_dataclass(real):
            assert {one.name for one in fields(mine)} <= {one.name for one in fields(real)}, mine
        for name, member in vars(mine).items():
            if name in OWN or not inspect.isfunction(member) or (name.startswith("__") and name != "__init__"):
                continue
            assert hasattr(real, name), f"{real} has no {name}"
            if mine.__name__ in ("KVCacheManager", "BlockPool", "KVCacheBlock", "Step") and name == "__init__":
                continue  # made by vLLM's own scheduler
            asked = list(inspect.signature(getattr(real, name)).parameters)
            if "args" not in asked:
                own = list(inspect.signature(member).parameters)
                common = [parameter for parameter in asked if parameter in own]
                assert own == common, f"{mine.__name__}.{name}{own}: the real one takes {asked}"
    assert seen >= SEEN


@pytest.mark.parametrize("ahead", [False, True])
def test_attributes(api: Api, ahead: bool) -> None:
    case = Case(ahead=ahead, prefix=True)
    told = Arrival(0, "0", [7] * 40, 3, {}, "")
    pair = []
    for one in (standin_api(), api):
        made = one.make(case, {}, one.AsyncScheduler if ahead else one.Scheduler)
        request = one.request(told, case)
        made.add_request(request)
        made.schedule()
        pair.append((made, request, made.kv_cache_manager, made.kv_cache_manager.block_pool))
    for mine, real in zip(*pair, strict=True):
        missing = [name for name in vars(mine) if name not in OWN and not hasattr(real, name)]
        assert not missing, f"{type(real)} has no {missing}"


def test_what_the_adapter_asks_for_is_there(api: Api) -> None:
    """Every attribute of vLLM's scheduler that the adapter reads from itself."""
    text = (serving.ROOT / "fastserve" / "vllm" / "adapter.py").read_text(encoding="utf-8")
    (driven,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "Driven"]
    read = {
        node.attr
        for node in ast.walk(driven)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    made = api.make(
        Case(policy="fcfs"), {"fastserve": {"policy": "fcfs"}}, importlib.import_module("fastserve.vllm").scheduler
    )
    missing = [name for name in read if not hasattr(made, name)]
    assert not missing, f"{type(made).__mro__} has no {missing}"


BLOCKS = (installed() or "").startswith("0.32.")
"""Do they take the same blocks of the pool, too? 0.33 gives them back in another order where drafts were rejected."""


def same(mine: Drive, real: Drive) -> None:
    for at, (own, theirs) in enumerate(zip(mine.schedule, real.schedule, strict=False)):
        assert own == theirs, f"step {at}"
    assert len(mine.schedule) == len(real.schedule)
    if BLOCKS:
        assert mine.given == real.given, "other blocks"
    assert (mine.preempted, mine.got, mine.ended, mine.reasons) == (real.preempted, real.got, real.ended, real.reasons)


@pytest.mark.parametrize("seed", range(60))
def test_the_same_schedule(api: Api, tmp_path: Path, seed: int) -> None:
    """Tokens of each request in each step, blocks, preemptions, ends: of vLLM's own scheduler."""
    case = draw(random.Random(seed), ["plain"])
    same(serve(standin_api(), case, tmp_path), serve(api, case, tmp_path))


def test_the_same_with_ours_in_it(api: Api) -> None:
    """The stand-ins in a process of their own, for both have vLLM's names."""
    cases = [draw(random.Random(seed)) for seed in range(40)]
    cases = [case.but(stats=False) for case in cases]
    command = [sys.executable, "-m", "tests.vllm.digest", *["--blocks"] * BLOCKS]
    told = subprocess.run(
        command, cwd=serving.ROOT, env=serving.environment(), input="\n".join(map(str, cases)), text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    for case, line in zip(cases, told.stdout.splitlines(), strict=True):
        assert json.loads(line) == json.loads(digest.of(api, case, BLOCKS)), str(case)
